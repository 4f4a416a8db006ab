# fastlr::fastlr: the folder of fastlr's C header. There is nothing to link.
if(NOT TARGET fastlr::fastlr)
    get_filename_component(fastlr_INCLUDE_DIR "${CMAKE_CURRENT_LIST_DIR}/../../include" ABSOLUTE)
    add_library(fastlr::fastlr INTERFACE IMPORTED)
    set_target_properties(fastlr::fastlr PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${fastlr_INCLUDE_DIR}")
endif()
