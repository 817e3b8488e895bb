# SPDX-License-Identifier: Apache-2.0
# install.cmake -- headers, licence and the CMake package. One export set per component, so that a consumer meets a
# component's dependencies only after asking for it.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/sparsemoe)  # no library inside, so not lib/
install(TARGETS sparsemoe EXPORT sparsemoe-targets FILE_SET HEADERS)
install(EXPORT sparsemoe-targets NAMESPACE sparsemoe:: DESTINATION ${package_dir})
foreach(component IN LISTS SPARSEMOE_COMPONENTS)
  install(TARGETS sparsemoe_${component} EXPORT sparsemoe-${component}-targets)
  install(EXPORT sparsemoe-${component}-targets NAMESPACE sparsemoe:: DESTINATION ${package_dir})
endforeach()

configure_package_config_file(cmake/sparsemoe-config.cmake.in sparsemoe-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(sparsemoe-config-version.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/sparsemoe-config.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/sparsemoe-config-version.cmake cmake/sparsemoe-dependencies.cmake
        DESTINATION ${package_dir})
install(FILES LICENSE NOTICE DESTINATION ${CMAKE_INSTALL_DOCDIR})
