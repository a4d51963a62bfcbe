# SPDX-License-Identifier: Apache-2.0
#
# Compiler and linker flags of every target, and lb_layer(), which makes a layer's target.
set(CMAKE_C_STANDARD 17)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_C_FLAGS_RELEASE "-O2 -g1")   # asserts stay on
set(CMAKE_C_FLAGS_RELWITHDEBINFO "-O2 -g")
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(lb_flags INTERFACE)
target_compile_definitions(lb_flags INTERFACE _GNU_SOURCE LB_VERSION="${PROJECT_VERSION}")
target_include_directories(lb_flags INTERFACE ${CMAKE_SOURCE_DIR})
# No contraction: a product and a sum are fused only where the source says fma, so that every
# build and every chip computes the same bits.
target_compile_options(lb_flags INTERFACE
  -ffp-contract=off -fno-math-errno -fno-trapping-math
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wvla -Wundef
  -Wformat=2 -Wimplicit-fallthrough -Wconversion -Wno-sign-conversion
  -fstack-protector-strong -fstack-clash-protection -fvisibility=hidden -fno-common)
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  # Locals start as zeros, but not in targets with LB_KERNELS: their tiles are arrays that are
  # written first, and clearing them at each call costs.
  target_compile_options(lb_flags INTERFACE -Walloca -Wlogical-op -Wduplicated-cond
                         $<$<NOT:$<BOOL:$<TARGET_PROPERTY:LB_KERNELS>>>:-ftrivial-auto-var-init=zero>)
endif()
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64")
  target_compile_options(lb_flags INTERFACE -fcf-protection=full)
endif()
if(LB_WERROR)
  target_compile_options(lb_flags INTERFACE -Werror)
endif()
if(LB_SANITIZE)
  target_compile_options(lb_flags INTERFACE -fsanitize=${LB_SANITIZE} -fno-omit-frame-pointer
                         -fno-sanitize-recover=all)
  target_link_options(lb_flags INTERFACE -fsanitize=${LB_SANITIZE})
else()
  target_compile_options(lb_flags INTERFACE -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
endif()
if(LB_FUZZ)
  # Coverage in every layer, not in the fuzz targets alone.
  target_compile_options(lb_flags INTERFACE -fsanitize=fuzzer-no-link)
  target_link_options(lb_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
target_compile_options(lb_flags INTERFACE -fPIE)
target_link_options(lb_flags INTERFACE -pie -Wl,-z,relro,-z,now,-z,noexecstack)
target_link_libraries(lb_flags INTERFACE Threads::Threads m)

# lb_layer(NAME FOLDER dependency...): a static library of FOLDER/*.c, and nothing it may not see.
function(lb_layer name folder)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${folder}/*.c)
  list(FILTER sources EXCLUDE REGEX "/main\\.c$")
  if(NOT sources)
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE lb_flags ${ARGN})
    return()
  endif()
  add_library(${name} STATIC ${sources})
  target_link_libraries(${name} PUBLIC lb_flags ${ARGN})
endfunction()

# lb_program(NAME FOLDER dependency...): FOLDER/main.c linked with the layers given.
function(lb_program name folder)
  if(EXISTS ${CMAKE_SOURCE_DIR}/${folder}/main.c)
    add_executable(${name} ${CMAKE_SOURCE_DIR}/${folder}/main.c)
    target_link_libraries(${name} PRIVATE ${ARGN})
    install(TARGETS ${name} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  else()
    add_custom_target(${name})
  endif()
endfunction()
