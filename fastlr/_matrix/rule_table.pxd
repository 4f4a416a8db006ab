# cython: language_level=3
"""What a matrix rule tells the driver (matrix_step.pyx), and what the driver gives it: plain C.

A tensor is cut into blocks of rows and columns. A rule works in phases: an operation sees every block, in any order and
in any thread, and `finish` then decides something for the whole tensor from the sums that the operations left. Blocks
depend on the tensor's shape alone and their sums are added in order, so no bit depends on threads.

A rule's module describes itself by one `MatrixRuleTable` and exports what `declared` makes of it, see adam_mini.pyx.
"""
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int64_t
from fastlr._kernels.structs cimport GradientView, ScalarGroup, StepJob, TensorOps, TensorView

cdef enum:
    MATRIX_TABLE_VERSION = 1
    MAX_PHASES = 4
    MAX_MATRIX_SLOTS = 6
    MAX_SETTINGS = 16      # hyper-parameters and options of a rule
    MAX_RULE_SCALARS = 16       # doubles that a rule computes once per step and tensor
    MAX_ROW_BLOCKS = 64    # the most blocks of rows that a matrix is cut into: each keeps a sum per column
    BLOCK_SIZE = 32768     # elements of a block, about
    LONGEST_ROW = 4096     # columns of a block, at most; a vector's has BLOCK_SIZE
    WHOLE_SIZE = 4096      # a tensor of at most so many elements goes through all phases in one thread

cdef enum MatrixSlot:
    # The shape of an array of a rule's state, and its precision.
    PER_ELEMENT,           # of the tensor's shape, in the precision of the rule
    PER_ROW,               # a double for each row of each matrix
    PER_COLUMN,            # a double for each column of each matrix
    PER_ROW_NARROW,        # a number for each row, in the precision of the rule
    PER_AXIS               # for each axis an array of doubles, `name0`, `name1`, ...; only the last of a rule's slots

cdef struct MatrixBlock:
    # Some rows and columns of one matrix of a tensor. Pointers are to the block's first element, row or column.
    Py_ssize_t rows, cols
    Py_ssize_t stride          # elements from row to row
    Py_ssize_t start           # the block's first element, counted in its tensor
    const void* g              # the preprocessed gradient
    const void* p              # the parameter, where the rule reads it
    void* update               # where an update is made before it is applied, if the rule needs one
    void* slot[MAX_MATRIX_SLOTS]
    void* row_factors          # a number per row and one per column
    void* col_factors
    double* row_sums           # row_terms sums per row, from row to row at a distance of `row_step`
    double* col_sums           # a sum per column
    Py_ssize_t row_step
    double[2] sum              # sums of the whole block
    const void* scalars        # what the rule's `begin` and `finish` computed
    bint whole                 # whether this is all of a small tensor's matrix, and `workspace` is there
    void* workspace
    const double* constants    # what the class gave beside settings, e.g. coefficients
    int constant_count
    const StepJob* job
    const TensorView* view
    const GradientView* gradient
    const ScalarGroup* group   # by which an update is applied
    const TensorOps* ops

cdef struct MatrixTensor:
    # One tensor: how it is cut, where its memory is, and what a step computes for it.
    const MatrixRuleTable* rule    # NULL: its update is made in Python
    Py_ssize_t size, batch, rows, cols
    int ndim
    Py_ssize_t* shape
    bint is_double
    # A rule's `layout` may change these five.
    Py_ssize_t block_rows, block_cols      # of a block, at most
    bint whole                             # all phases in one thread
    bint reads_param                       # whether operations read the parameter
    Py_ssize_t row_blocks, col_blocks, blocks      # blocks of one matrix' rows and columns; all blocks of the tensor
    char* slot[MAX_MATRIX_SLOTS]           # NULL: the tensor keeps no such array
    double** axis_slot                     # of PER_AXIS
    double* row_sums                       # per row, block of columns and term
    double* col_sums                       # per block of rows and column
    double* block_sums                     # two per block
    char* row_factors                      # in the precision of the rule, or doubles
    char* col_factors
    # This step's.
    double settings[MAX_SETTINGS]          # the rule's own struct of doubles
    double scalars[MAX_RULE_SCALARS]            # the rule's own struct
    ScalarGroup given                      # as the engine computed it
    ScalarGroup group                      # by which the update is applied: `given` without a gradient's stages
    int64_t t                              # 1, 2, ...
    bint active, copies_gradient, copies_param
    char* g
    char* p
    char* update
    MatrixBlock block                      # what is the same for all blocks
    const int* setting_places              # where settings are among a group's values; -1: an option, constant

# (the first argument tells the precision by its type, and has no value)
ctypedef void (*MatrixOperation)(void* also_typed, MatrixBlock* block) noexcept nogil
ctypedef void (*MatrixFunction)(MatrixTensor* tensor) noexcept nogil
ctypedef double (*RowFactor)(const void* scalars, void* row_state, double squares, Py_ssize_t width) noexcept nogil

cdef struct MatrixRuleTable:
    # One matrix rule. New fields are appended, with a new version; NULL and 0: there is nothing to do.
    int version
    size_t size                # of this struct
    int settings, slots
    MatrixSlot[MAX_MATRIX_SLOTS] slot_kind
    int phases
    MatrixOperation[MAX_PHASES][2] operations     # [phase][0] float32, [phase][1] float64
    MatrixFunction layout      # once per tensor
    MatrixFunction begin       # once per step: `scalars`, and what changes in `group`
    MatrixFunction[MAX_PHASES] finish
    int row_terms              # sums per row
    bint col_sums              # whether there is a sum per column
    bint row_factors, col_factors, double_factors
    bint keeps_update          # whether `update` is memory of the tensor's size
    int python_phase           # a tensor that is not whole: from this phase on, Python has changed `update`
    Py_ssize_t workspace       # elements of a thread's memory for a whole tensor
    # A step over rows: of the rule's first slot, one number per row, adds a row's gradient; a factor of its update.
    RowFactor[2] row_factor


cdef inline object declared(MatrixRuleTable* table, object settings, list slots, Py_ssize_t scalars_size):
    """What a module exports for a rule: the table as a capsule, the names of its settings and its slots.

    `settings` is a value of the rule's struct of doubles, whose fields' names say what they are; `slots` are pairs of a
    name and a `MatrixSlot`.
    """
    names, scalars = tuple(settings), scalars_size // <Py_ssize_t>sizeof(double)
    if len(names) > MAX_SETTINGS or len(slots) > MAX_MATRIX_SLOTS or scalars > MAX_RULE_SCALARS:
        raise ValueError(f"a matrix rule may have {MAX_SETTINGS} settings, {MAX_MATRIX_SLOTS} slots and "
                         f"{MAX_RULE_SCALARS} scalars, got {len(names)}, {len(slots)} and {scalars}")
    table.version, table.size = MATRIX_TABLE_VERSION, sizeof(MatrixRuleTable)
    table.settings, table.slots = <int>len(names), <int>len(slots)
    for k, (_, kind) in enumerate(slots):
        table.slot_kind[<int>k] = <MatrixSlot><int>kind
    return PyCapsule_New(table, "fastlr.matrix_rule", NULL), names, {name: int(kind) for name, kind in slots}


cdef inline double larger(double x, double y) noexcept nogil:
    return y if x < y else x           # (NaN stays)

cdef inline void put_row_factor(MatrixTensor* tensor, Py_ssize_t row, double x) noexcept nogil:
    """A factor of one row, in the precision of the rule."""
    if tensor.is_double:
        (<double*>tensor.row_factors)[row] = x
    else:
        (<float*>tensor.row_factors)[row] = <float>x

cdef inline double total_of_blocks(const MatrixTensor* tensor, int which) noexcept nogil:
    """A sum over the tensor, in the order of its blocks."""
    cdef double total = 0
    cdef Py_ssize_t k
    for k in range(tensor.blocks):
        total += tensor.block_sums[2 * k + which]
    return total

cdef inline double total_of_row(const MatrixTensor* tensor, Py_ssize_t row) noexcept nogil:
    """A sum over one row, of a rule with one term per row."""
    cdef double total = 0
    cdef Py_ssize_t k
    for k in range(tensor.col_blocks):
        total += tensor.row_sums[row * tensor.col_blocks + k]
    return total
