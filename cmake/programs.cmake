# SPDX-License-Identifier: Apache-2.0
# programs.cmake -- tests, examples, tools and benchmarks. Every source file found becomes one program; what it needs
# beyond the core is read from its own #include lines, and a program whose package is missing is left out with a
# STATUS line that names the package.

# --- packages only our own programs use ------------------------------------------------------------------------------
find_package(doctest QUIET CONFIG)
find_package(CLI11 QUIET CONFIG)
find_package(benchmark QUIET CONFIG)
find_package(LibLZMA QUIET)
find_package(ZLIB QUIET)
find_path(SPARSEMOE_RAPIDCHECK_INCLUDE_DIR rapidcheck.h)
find_library(SPARSEMOE_RAPIDCHECK_LIBRARY rapidcheck)
if(SPARSEMOE_RAPIDCHECK_INCLUDE_DIR AND SPARSEMOE_RAPIDCHECK_LIBRARY)
  _sparsemoe_import(sparsemoe::rapidcheck "${SPARSEMOE_RAPIDCHECK_INCLUDE_DIR}" "${SPARSEMOE_RAPIDCHECK_LIBRARY}")
endif()
find_path(SPARSEMOE_UTF8PROC_INCLUDE_DIR utf8proc.h)
find_library(SPARSEMOE_UTF8PROC_LIBRARY utf8proc)
if(SPARSEMOE_UTF8PROC_INCLUDE_DIR AND SPARSEMOE_UTF8PROC_LIBRARY)
  _sparsemoe_import(sparsemoe::utf8proc "${SPARSEMOE_UTF8PROC_INCLUDE_DIR}" "${SPARSEMOE_UTF8PROC_LIBRARY}")
endif()
mark_as_advanced(SPARSEMOE_RAPIDCHECK_INCLUDE_DIR SPARSEMOE_RAPIDCHECK_LIBRARY SPARSEMOE_UTF8PROC_INCLUDE_DIR
                 SPARSEMOE_UTF8PROC_LIBRARY)

# --- options of our own programs, never exported ---------------------------------------------------------------------
add_library(sparsemoe_program_options INTERFACE)
set(cxx "$<COMPILE_LANGUAGE:CXX>")
set(cuda "$<COMPILE_LANGUAGE:CUDA>")
target_compile_options(
  sparsemoe_program_options
  INTERFACE "$<${cxx}:-Wall;-Wextra;-Wconversion>" "$<${cuda}:-Xcompiler=-Wall;-Xcompiler=-Wextra>"
            "$<$<AND:${cxx},$<BOOL:${SPARSEMOE_WERROR}>>:-Werror>")
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # GCC bug 105651: "text" + std::string at -O2 is reported as an overlapping copy of 2^63 bytes. And its AVX-512 headers
  # name undefined vectors that later passes take for uses of uninitialised ones.
  target_compile_options(sparsemoe_program_options
                         INTERFACE "$<${cxx}:-Wno-restrict;-Wno-maybe-uninitialized;-Wno-uninitialized>")
endif()
if(SPARSEMOE_NATIVE)
  target_compile_options(sparsemoe_program_options INTERFACE "$<$<AND:${cxx},$<CONFIG:Release>>:-march=native>")
  # g++ 12 with AVX-512 makes {8, 8, 0, 0} of 64-bit numbers {8, 8, 8, 8}: it takes a wide constant whose upper words are
  # zero for one repeated word. Moves of at most 16 bytes avoid it.
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13
     AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 12 AND CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    target_compile_options(sparsemoe_program_options INTERFACE "$<${cxx}:-mmove-max=128;-mstore-max=128>")
  endif()
endif()
if(SPARSEMOE_SANITIZE)
  target_compile_options(sparsemoe_program_options INTERFACE -fsanitize=${SPARSEMOE_SANITIZE} -fno-omit-frame-pointer
                                                             -fno-sanitize-recover=all)
  target_link_options(sparsemoe_program_options INTERFACE -fsanitize=${SPARSEMOE_SANITIZE})
endif()

# Small libraries that a header may use where they are: linked to everything, and named by a macro.
add_library(sparsemoe_optional_libraries INTERFACE)
foreach(component io sentencepiece)
  if(available_${component})
    target_link_libraries(sparsemoe_optional_libraries INTERFACE sparsemoe::${component})
  endif()
endforeach()
if(TARGET sparsemoe::rapidcheck)
  target_link_libraries(sparsemoe_optional_libraries INTERFACE sparsemoe::rapidcheck)
  target_compile_definitions(sparsemoe_optional_libraries INTERFACE SPARSEMOE_HAS_RAPIDCHECK=1)
else()
  message(STATUS "sparsemoe: routers are not tried on random batches; that needs librapidcheck-dev")
endif()

# --- text of corpora ------------------------------------------------------------------------------------------------
# tools/corpus is compiled once, for its own program, for those that train on a corpus, and for their tests.
set(corpus_missing "")
foreach(package "CLI11_FOUND libcli11-dev" "available_io nlohmann-json3-dev" "available_sentencepiece libsentencepiece-dev"
        "SPARSEMOE_UTF8PROC_LIBRARY libutf8proc-dev")
  separate_arguments(package)
  list(GET package 0 have)
  list(GET package 1 name)
  if(NOT ${have})
    list(APPEND corpus_missing ${name})
  endif()
endforeach()
set(have_corpus OFF)
if(NOT corpus_missing)
  set(have_corpus ON)
  file(GLOB corpus_sources CONFIGURE_DEPENDS tools/corpus/*.cpp)
  list(FILTER corpus_sources EXCLUDE REGEX "/main\\.cpp$")
  add_library(sparsemoe_corpus STATIC ${corpus_sources})
  target_link_libraries(sparsemoe_corpus PUBLIC sparsemoe::sparsemoe
                        PRIVATE sparsemoe_program_options sparsemoe::io sparsemoe::sentencepiece CLI11::CLI11
                                sparsemoe::utf8proc)
  if(LIBLZMA_FOUND)
    target_link_libraries(sparsemoe_corpus PRIVATE LibLZMA::LibLZMA)
    target_compile_definitions(sparsemoe_corpus PRIVATE SPARSEMOE_HAS_LZMA=1)
  endif()
  if(ZLIB_FOUND)  # text_file.cpp asks for it by __has_include
    target_link_libraries(sparsemoe_corpus PRIVATE ZLIB::ZLIB)
  endif()
endif()

# sparsemoe_program(<name> <source>... [LINK <target>...]): sets added_<name>.
function(sparsemoe_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LINK")
  set(sources ${arg_UNPARSED_ARGUMENTS})
  set(added_${name} OFF PARENT_SCOPE)
  set(includes "")
  foreach(source IN LISTS sources)
    file(STRINGS ${source} lines REGEX "^[ \t]*#[ \t]*include")
    list(APPEND includes ${lines})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${source})
  endforeach()

  set(link ${arg_LINK})
  set(missing "")
  macro(needs regex have package)  # then the targets
    if("${includes}" MATCHES "${regex}")
      if(${have})
        list(APPEND link ${ARGN})
      else()
        list(APPEND missing ${package})
      endif()
    endif()
  endmacro()
  needs("<doctest" doctest_FOUND doctest-dev doctest::doctest)
  needs("<CLI/|sparsemoe/io/options" CLI11_FOUND libcli11-dev CLI11::CLI11)
  needs("tools/corpus/|translation/" have_corpus "${corpus_missing}" sparsemoe_corpus)
  needs("<benchmark/" benchmark_FOUND libbenchmark-dev benchmark::benchmark)
  needs("<rapidcheck" SPARSEMOE_RAPIDCHECK_LIBRARY librapidcheck-dev sparsemoe::rapidcheck)
  needs("<utf8proc" SPARSEMOE_UTF8PROC_LIBRARY libutf8proc-dev sparsemoe::utf8proc)
  needs("nlohmann/|sparsemoe/io/" available_io nlohmann-json3-dev sparsemoe::io)
  needs("sentencepiece" available_sentencepiece libsentencepiece-dev sparsemoe::sentencepiece)
  needs("onednn|dnnl" available_onednn libdnnl-dev sparsemoe::onednn)
  needs("<mpi\\.h>|comm/mpi" available_mpi libopenmpi-dev sparsemoe::mpi)
  needs("nccl" available_nccl NCCL sparsemoe::nccl)
  if(missing)
    string(REPLACE ";" " " missing "${missing}")
    message(STATUS "sparsemoe: ${name} is left out; it needs ${missing}")
    return()
  endif()
  add_executable(${name} ${sources})
  list(REMOVE_DUPLICATES link)
  target_link_libraries(${name} PRIVATE sparsemoe::sparsemoe sparsemoe_program_options
                                        sparsemoe_optional_libraries ${link})
  target_include_directories(${name} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})  # for "tools/...", "tests/..."
  set(added_${name} ON PARENT_SCOPE)
endfunction()

# A program may skip what this machine cannot run: exit status 77, with a sentence that says why.
function(sparsemoe_ctest name label)
  add_test(NAME ${name} COMMAND ${ARGN} WORKING_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 900 LABELS ${label})
endfunction()

# --- tests -----------------------------------------------------------------------------------------------------------
if(SPARSEMOE_BUILD_TESTS)
  enable_testing()
  set(root ${CMAKE_CURRENT_SOURCE_DIR})

  file(GLOB sources CONFIGURE_DEPENDS tests/test_*.cpp)
  if(sparsemoe_with_cuda AND available_cuda)
    file(GLOB cuda_sources CONFIGURE_DEPENDS tests/cuda_*.cu)
  endif()
  add_custom_target(cuda_tests)  # what check_cuda.sh builds
  # Arithmetic whose bits the optimiser could change (it contracts, vectorises, inlines), and counted allocations.
  set(optimised allocations comm data_parallel decoding expert_forms kernels layers layers_attention lstm onednn optim
                training update)
  foreach(source IN LISTS sources cuda_sources)
    get_filename_component(name ${source} NAME_WE)
    set(label unit)
    set(link "")
    if(source MATCHES "\\.cu$")
      set(label cuda)
      set(link sparsemoe::cuda)
    endif()
    sparsemoe_program(${name} ${source} LINK ${link})
    if(NOT added_${name})
      continue()
    endif()
    target_compile_definitions(${name} PRIVATE SPARSEMOE_TEST_DATA="${root}/tests/data")
    string(REGEX REPLACE "^test_" "" subject ${name})
    if(SPARSEMOE_TEST_OPTIMISATION AND label STREQUAL "unit" AND NOT subject IN_LIST optimised)
      target_compile_options(${name} PRIVATE ${SPARSEMOE_TEST_OPTIMISATION})
    endif()
    sparsemoe_ctest(${name} ${label} ${name})
    if(label STREQUAL "cuda")
      add_dependencies(cuda_tests ${name})
      # A doctest program has no exit status for "skipped"; the sentence is the signal.
      set_tests_properties(${name} PROPERTIES SKIP_REGULAR_EXPRESSION "[Ss]kip(ped)?: no CUDA device")
    endif()
  endforeach()

  # Programs of several processes. Open MPI refuses root and more ranks than cores unless told.
  file(GLOB sources CONFIGURE_DEPENDS tests/mpi_*.cpp)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    sparsemoe_program(${name} ${source} LINK sparsemoe::mpi)
    if(added_${name})
      target_compile_definitions(${name} PRIVATE SPARSEMOE_TEST_DATA="${root}/tests/data")
      sparsemoe_ctest(${name} mpi ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} 3 $<TARGET_FILE:${name}>)
      set_tests_properties(
        ${name} PROPERTIES RUN_SERIAL ON ENVIRONMENT
                "OMPI_ALLOW_RUN_AS_ROOT=1;OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1;OMPI_MCA_rmaps_base_oversubscribe=1;\
OMPI_MCA_hwloc_base_binding_policy=none;OMPI_MCA_mpi_yield_when_idle=1;OMP_NUM_THREADS=1")
    endif()
  endforeach()

  # One definition, however many translation units include it.
  sparsemoe_program(two_tu tests/two_tu/main.cpp tests/two_tu/other.cpp)
  sparsemoe_ctest(two_tu unit two_tu)

  # Code that must not compile, and why.
  file(GLOB sources CONFIGURE_DEPENDS tests/compile_fail/*.cpp)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    sparsemoe_ctest(compile_fail_${name} compile_fail ${root}/tests/compile_fail/run.sh ${CMAKE_CXX_COMPILER} ${source})
  endforeach()
endif()

# --- examples and tools ----------------------------------------------------------------------------------------------
if(SPARSEMOE_BUILD_EXAMPLES)
  file(GLOB sources CONFIGURE_DEPENDS examples/*.cpp)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    sparsemoe_program(${name} ${source})
    if(added_${name} AND SPARSEMOE_BUILD_TESTS)
      sparsemoe_ctest(example_${name} example ${name})
    endif()
  endforeach()

  # Trainers on a corpus: sparsemoe-<name> of examples/pretraining/, tests/program/<name>.sh.
  set(trainers "")
  file(GLOB pretraining_headers CONFIGURE_DEPENDS examples/pretraining/*.hpp)
  foreach(trainer "pretrain switch_pretraining" "hash-lm hash_language_model"
          "lstm-lm lstm_language_model")
    separate_arguments(trainer)
    list(GET trainer 0 name)
    list(GET trainer 1 source)
    sparsemoe_program(sparsemoe-${name} examples/pretraining/${source}.cpp ${pretraining_headers})
    if(added_sparsemoe-${name})
      list(APPEND trainers ${name})
    endif()
  endforeach()

  sparsemoe_program(sparsemoe-corpus tools/corpus/main.cpp)

  # The two larger programs take the fast GEMM provider where it is.
  set(extras "")
  if(available_onednn)
    list(APPEND extras sparsemoe::onednn)
  endif()
  if(CLI11_FOUND)
    list(APPEND extras CLI11::CLI11)
  endif()
  file(GLOB_RECURSE translation CONFIGURE_DEPENDS examples/translation/*.cpp examples/translation/*.hpp)
  file(GLOB convert CONFIGURE_DEPENDS tools/convert.cpp)
  # Hugging Face checkpoints, a translation unit a family; both sparsemoe-generate and sparsemoe-nmt run them.
  file(GLOB families CONFIGURE_DEPENDS examples/generation/family_*.cpp)
  file(GLOB_RECURSE generate CONFIGURE_DEPENDS examples/generation/*.cpp examples/generation/*.hpp)
  list(REMOVE_ITEM generate ${families})
  if(available_io)
    add_library(sparsemoe_generation STATIC ${families})
    target_link_libraries(sparsemoe_generation PUBLIC sparsemoe::sparsemoe sparsemoe::io
                          PRIVATE sparsemoe_program_options)
  endif()
  file(GLOB conformance CONFIGURE_DEPENDS tools/conformance.cpp tools/conformance/*.cpp)
  foreach(program translation conformance convert generate)
    set(target sparsemoe-${program})
    if(program STREQUAL "translation")
      set(target sparsemoe-nmt)
    endif()
    set(links ${extras})
    if(TARGET sparsemoe_generation AND program MATCHES "translation|generate")
      list(APPEND links sparsemoe_generation)
    endif()
    if("${${program}}" MATCHES "\\.cpp")
      sparsemoe_program(${target} ${${program}} LINK ${links})
    endif()
  endforeach()
  if(added_sparsemoe-nmt)
    # Its logs name the commit. A library of its own: only one small file is compiled when that is another one.
    set(commit ${CMAKE_CURRENT_BINARY_DIR}/commit.cpp)
    add_custom_target(sparsemoe_commit_file BYPRODUCTS ${commit} COMMENT ""
                      COMMAND ${CMAKE_COMMAND} -DSOURCE=${CMAKE_CURRENT_SOURCE_DIR} -DOUTPUT=${commit}
                              -P ${CMAKE_CURRENT_SOURCE_DIR}/cmake/commit.cmake)
    add_library(sparsemoe_commit STATIC ${commit})
    add_dependencies(sparsemoe_commit sparsemoe_commit_file)
    target_link_libraries(sparsemoe-nmt PRIVATE sparsemoe_commit)
  endif()
  if(added_sparsemoe-conformance)
    # Many layers in two precisions, each run once: -O3 compiles for 140 s where -O1 takes 40.
    target_compile_options(sparsemoe-conformance PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
  if(added_sparsemoe-conformance AND SPARSEMOE_BUILD_TESTS)
    sparsemoe_ctest(conformance unit ${CMAKE_CURRENT_SOURCE_DIR}/tests/conformance.sh
                    $<TARGET_FILE:sparsemoe-conformance> ${CMAKE_CURRENT_SOURCE_DIR}/tests/data/goldens)
  endif()
  if(added_sparsemoe-convert)
    target_compile_options(sparsemoe-convert PRIVATE $<$<CONFIG:Release>:-O1>)  # it copies, and computes nothing
  endif()
  # Options and files; their models are in other units. The translator's trainer does arithmetic of its own, and its
  # benchmark measures the machine's limits.
  file(GLOB light CONFIGURE_DEPENDS examples/generation/main.cpp examples/translation/main.cpp
       examples/translation/commands/*.cpp)
  list(FILTER light EXCLUDE REGEX "/commands/(train|benchmark)\\.cpp$")
  set_source_files_properties(${light} PROPERTIES COMPILE_OPTIONS $<$<CONFIG:Release>:-O1>)
  if(added_sparsemoe-generate AND SPARSEMOE_BUILD_TESTS)
    foreach(name generate checkpoints)
      sparsemoe_ctest(program_${name} program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/${name}.sh
                      $<TARGET_FILE:sparsemoe-generate> ${CMAKE_CURRENT_SOURCE_DIR}/tests/data/goldens/models)
    endforeach()
  endif()
  if(added_sparsemoe-convert AND SPARSEMOE_BUILD_TESTS)
    sparsemoe_ctest(program_convert program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/convert.sh
                    $<TARGET_FILE:sparsemoe-convert> ${CMAKE_CURRENT_SOURCE_DIR}/tests/data/goldens/models)
  endif()
  if(added_sparsemoe-nmt AND SPARSEMOE_BUILD_TESTS)
    foreach(name pipeline bitext bits training routers bad_input extract translate study benchmark distill upcycle)
      sparsemoe_ctest(program_${name} program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/${name}.sh
                      $<TARGET_FILE:sparsemoe-nmt>)
    endforeach()
    sparsemoe_ctest(program_corpus program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/corpus.sh
                    $<TARGET_FILE:sparsemoe-nmt> $<TARGET_FILE:sparsemoe-corpus>)
    if(added_sparsemoe-convert)
      sparsemoe_ctest(program_faults program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/faults.sh
                      $<TARGET_FILE:sparsemoe-nmt> $<TARGET_FILE:sparsemoe-convert>
                      ${CMAKE_CURRENT_SOURCE_DIR}/tests/data/goldens/models/t5_relu_a)
    endif()
    foreach(name IN LISTS trainers)
      sparsemoe_ctest(program_${name} program ${CMAKE_CURRENT_SOURCE_DIR}/tests/program/${name}.sh
                      $<TARGET_FILE:sparsemoe-nmt> $<TARGET_FILE:sparsemoe-${name}>)
    endforeach()
  endif()
endif()

# --- benchmarks ------------------------------------------------------------------------------------------------------
if(SPARSEMOE_BUILD_BENCHMARKS)
  file(GLOB sources CONFIGURE_DEPENDS benchmarks/*.cpp)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME_WE)
    sparsemoe_program(${name} ${source})
    if(added_${name} AND SPARSEMOE_BUILD_TESTS)
      sparsemoe_ctest(benchmark_${name} benchmark ${CMAKE_CURRENT_SOURCE_DIR}/tests/benchmark_smoke.sh
                      $<TARGET_FILE:${name}>)
    endif()
  endforeach()
endif()
