# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The functions of the C table for plans: each looks its plan up, and lets nobody else use it meanwhile."""
from cpython.object cimport PyObject
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
cimport fastlr._c_api.handles as handles
cimport fastlr._c_api.plan_setup as setup
cimport fastlr._c_api.plan_state as state
cimport fastlr._c_api.plan_steps as steps
from fastlr._c_api.c_plan cimport CPlan
from fastlr._c_api.handles cimport MESSAGE_SIZE, Place
from fastlr._kernels.build_id cimport FASTLR_LAYOUT
from fastlr.c_api cimport (
    FASTLR_NO_PYTHON, FASTLR_OK, fastlr_api, fastlr_array, fastlr_plan, fastlr_plan_info, fastlr_step_options,
    fastlr_tensor,
)

from fastlr._engine.instruction_set import one_build

build_id = FASTLR_LAYOUT.decode()

one_build("fastlr._c_api.plan_functions", build_id)

cdef extern from "Python.h":
    bint Py_IsInitialized() nogil

cdef char[MESSAGE_SIZE] not_made       # why the latest plan was not made


cdef fastlr_plan* made(object given):
    """A plan of a name or an optimizer, or NULL and a message."""
    cdef CPlan plan
    cdef fastlr_plan* handle
    cdef bytes text
    try:
        plan = CPlan(given)
        handle = handles.add(plan)
        plan.message = handles.find(handle).message
        return handle
    except BaseException as error:
        text = (str(error) or type(error).__name__).encode("utf-8", "replace")
        snprintf(not_made, MESSAGE_SIZE, "%s", <const char*>text)
        return NULL


cdef fastlr_plan* named(const char* optimizer) noexcept with gil:
    if optimizer == NULL:
        snprintf(not_made, MESSAGE_SIZE, "plan_new: the optimizer's name must not be NULL")
        return NULL
    return made(optimizer.decode("utf-8", "replace"))


cdef fastlr_plan* of_object(PyObject* optimizer) noexcept with gil:
    if optimizer == NULL:
        snprintf(not_made, MESSAGE_SIZE, "plan_of: the optimizer must not be NULL")
        return NULL
    return made(<object>optimizer)


cdef fastlr_plan* plan_new(const char* optimizer) noexcept nogil:
    if not Py_IsInitialized():
        snprintf(not_made, MESSAGE_SIZE, "plan_new: Python does not run")
        return NULL
    return named(optimizer)


cdef fastlr_plan* plan_of(PyObject* optimizer) noexcept nogil:
    if not Py_IsInitialized():
        snprintf(not_made, MESSAGE_SIZE, "plan_of: Python does not run")
        return NULL
    return of_object(optimizer)


cdef const char* plan_message(fastlr_plan* handle) noexcept nogil:
    cdef Place* place
    if handle == NULL:
        return not_made
    place = handles.find(handle)
    if place == NULL:
        return "this plan was freed, or never was one"
    return place.message


cdef int take_with_python(fastlr_plan* handle, Place** place) noexcept nogil:
    """Take a plan for a function that calls Python."""
    return handles.take(handle, place) if Py_IsInitialized() else FASTLR_NO_PYTHON


cdef int plan_free(fastlr_plan* handle) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        free_taken(handle, place)
    return error


cdef void free_taken(fastlr_plan* handle, Place* place) noexcept with gil:
    handles.remove(handle, place)


cdef int plan_option(fastlr_plan* handle, int group, const char* name, const char* value) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = setup.option(<CPlan>place.plan, group, name, value)
        handles.give(place)
    return error


cdef int plan_set(fastlr_plan* handle, int group, const char* name, double value) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = setup.number(<CPlan>place.plan, group, name, value)
        handles.give(place)
    return error


cdef int plan_schedule(fastlr_plan* handle, int group, const char* name, PyObject* schedule) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = setup.schedule(<CPlan>place.plan, group, name, schedule)
        handles.give(place)
    return error


cdef int plan_add(fastlr_plan* handle, const fastlr_tensor* tensor) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = setup.add(<CPlan>place.plan, tensor)
        handles.give(place)
    return error


cdef int plan_build(fastlr_plan* handle) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = setup.build(<CPlan>place.plan)
        handles.give(place)
    return error


cdef int plan_step(fastlr_plan* handle, const void* const* gradients,
                   const fastlr_step_options* options) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = steps.step(<CPlan>place.plan, gradients, options)
        handles.give(place)
    return error


cdef int plan_step_rows(fastlr_plan* handle, int64_t tensor, int64_t n, const int64_t* rows, const void* gradients,
                        int ends_step, const fastlr_step_options* options) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = steps.step_rows(<CPlan>place.plan, tensor, n, rows, gradients, ends_step != 0, options)
        handles.give(place)
    return error


cdef int plan_accumulate(fastlr_plan* handle, const void* const* gradients,
                         const fastlr_step_options* options) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = steps.accumulate(<CPlan>place.plan, gradients, options)
        handles.give(place)
    return error


cdef int plan_step_curvature(fastlr_plan* handle, const void* const* gradients, const void* const* curvature,
                             const fastlr_step_options* options) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = steps.step_curvature(<CPlan>place.plan, gradients, curvature, options)
        handles.give(place)
    return error


cdef int plan_place_state(fastlr_plan* handle, int64_t tensor, const char* slot, void* memory, int take) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = state.place_state(<CPlan>place.plan, tensor, slot, memory, take != 0)
        handles.give(place)
    return error


cdef int plan_constrain(fastlr_plan* handle) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = state.constrain(<CPlan>place.plan)
        handles.give(place)
    return error


cdef int plan_info(fastlr_plan* handle, fastlr_plan_info* info) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = state.info(<CPlan>place.plan, info)
        handles.give(place)
    return error


cdef int plan_get(fastlr_plan* handle, int group, const char* name, double* value) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = setup.value(<CPlan>place.plan, group, name, value)
        handles.give(place)
    return error


cdef int plan_state(fastlr_plan* handle, int64_t tensor, const char* slot, fastlr_array* array) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = state.state(<CPlan>place.plan, tensor, slot, array)
        handles.give(place)
    return error


cdef int plan_clock(fastlr_plan* handle, int64_t* t, int64_t* skipped_steps) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = state.clock(<CPlan>place.plan, t, skipped_steps)
        handles.give(place)
    return error


cdef int plan_set_clock(fastlr_plan* handle, int64_t t, const int64_t* skipped_steps) noexcept nogil:
    cdef Place* place
    cdef int error = handles.take(handle, &place)
    if error == FASTLR_OK:
        error = state.set_clock(<CPlan>place.plan, t, skipped_steps)
        handles.give(place)
    return error


cdef int plan_save(fastlr_plan* handle, const char* path) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = state.save(<CPlan>place.plan, path)
        handles.give(place)
    return error


cdef int plan_load(fastlr_plan* handle, const char* path) noexcept nogil:
    cdef Place* place
    cdef int error = take_with_python(handle, &place)
    if error == FASTLR_OK:
        error = state.load(<CPlan>place.plan, path)
        handles.give(place)
    return error


cdef const char* plan_slot(fastlr_plan* handle, int64_t tensor, int64_t k) noexcept nogil:
    cdef Place* place
    cdef const char* name
    if handles.take(handle, &place) != FASTLR_OK:
        return NULL
    name = state.slot_name(<CPlan>place.plan, tensor, k)
    handles.give(place)
    return name


cdef int fill_plans(fastlr_api* api) except -1:
    """Enter the functions into the table."""
    api.plan_new, api.plan_of, api.plan_free, api.plan_message = plan_new, plan_of, plan_free, plan_message
    api.plan_option, api.plan_set, api.plan_schedule = plan_option, plan_set, plan_schedule
    api.plan_add, api.plan_build, api.plan_step, api.plan_step_rows = plan_add, plan_build, plan_step, plan_step_rows
    api.plan_accumulate, api.plan_step_curvature = plan_accumulate, plan_step_curvature
    api.plan_place_state, api.plan_constrain = plan_place_state, plan_constrain
    api.plan_info, api.plan_get, api.plan_clock, api.plan_set_clock = plan_info, plan_get, plan_clock, plan_set_clock
    api.plan_slot, api.plan_state, api.plan_save, api.plan_load = plan_slot, plan_state, plan_save, plan_load
    return 0
