# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""A rule's table from function pointers of C, Rust or numba, and the check of any table."""
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from libc.stdint cimport uintptr_t
from libc.stdlib cimport malloc
from libc.string cimport memset
from fastlr._kernels.rule_table cimport (
    MAX_SUMS, TABLE_VERSION, BeginFunction, FinishAllFunction, FinishFunction, RuleTable, ScalarsFunction, StepFunction,
    TermsFunction,
)
from fastlr._kernels.structs cimport MAX_HYPERS, MAX_SLOTS
from fastlr.rules.scalars cimport MAX_SCALARS

LIMITS = {"slots": MAX_SLOTS, "hypers": MAX_HYPERS, "sums": MAX_SUMS, "scalars": MAX_SCALARS}


def table_from_pointers(counts: dict[str, int], addresses: dict[str, int], decay_inside_update: bool,
                        updates_state_while_reducing: bool):
    """A capsule of a table of these functions (addresses, 0 for none) and counts; it lives as long as the process."""
    cdef RuleTable* table = <RuleTable*>malloc(sizeof(RuleTable))
    if table == NULL:
        raise MemoryError
    memset(table, 0, sizeof(RuleTable))
    table.version, table.size = TABLE_VERSION, sizeof(RuleTable)
    table.scalars = <ScalarsFunction><uintptr_t>addresses["scalars"]
    table.begin = <BeginFunction><uintptr_t>addresses["begin"]
    table.step[0] = <StepFunction><uintptr_t>addresses["step_float32"]
    table.step[1] = <StepFunction><uintptr_t>addresses["step_float64"]
    table.terms[0] = <TermsFunction><uintptr_t>addresses["terms_float32"]
    table.terms[1] = <TermsFunction><uintptr_t>addresses["terms_float64"]
    table.finish_all = <FinishAllFunction><uintptr_t>addresses["finish_all"]
    table.finish = <FinishFunction><uintptr_t>addresses["finish"]
    table.hypers, table.slots, table.memories = counts["hypers"], counts["slots"], counts["memory"]
    table.shared, table.sums = counts["shared"], counts["sums"]
    table.decay_inside_update, table.updates_state_while_reducing = decay_inside_update, updates_state_while_reducing
    return PyCapsule_New(table, "fastlr.rule", NULL)


def check_table(table, counts: dict[str, int], who: str) -> tuple[bool, bool]:
    """Whether a table steps float32 and float64; ImportError unless it is one of this version and of these counts."""
    cdef const RuleTable* t
    if not PyCapsule_IsValid(table, "fastlr.rule"):
        raise ImportError(f"{who}: expected a capsule named 'fastlr.rule', got {table!r}")
    t = <const RuleTable*>PyCapsule_GetPointer(table, "fastlr.rule")
    if t.version != TABLE_VERSION or t.size < sizeof(RuleTable):
        raise ImportError(f"{who}: its table is of version {t.version} ({t.size} bytes), this fastlr reads version "
                          f"{TABLE_VERSION} ({sizeof(RuleTable)} bytes); build it again with this fastlr")
    found = {"hypers": t.hypers, "slots": t.slots, "memory": t.memories, "shared": t.shared, "sums": t.sums}
    if found != counts:
        raise ImportError(f"{who}: its table says {found}, its description {counts}; build it again")
    return t.step[0] != NULL, t.step[1] != NULL
