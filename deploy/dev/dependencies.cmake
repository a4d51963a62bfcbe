# SPDX-License-Identifier: Apache-2.0
#
# Finds what the build needs; a missing library is named with its Debian package, all in one go.
find_package(Threads REQUIRED)
find_package(PkgConfig QUIET)
if(NOT PkgConfig_FOUND)
  message(FATAL_ERROR "pkg-config is missing. On Debian: apt-get install pkg-config")
endif()

set(LB_MISSING_PACKAGES "")
# lb_require(NAME pkg-config-module debian-package): an imported target lb::NAME.
function(lb_require name module package)
  pkg_check_modules(LB_DEP_${name} QUIET IMPORTED_TARGET ${module})
  if(LB_DEP_${name}_FOUND)
    add_library(lb::${name} ALIAS PkgConfig::LB_DEP_${name})
  else()
    set(LB_MISSING_PACKAGES ${LB_MISSING_PACKAGES} ${package} PARENT_SCOPE)
  endif()
endfunction()

lb_require(jansson jansson libjansson-dev)
lb_require(crypto libcrypto libssl-dev)
lb_require(curl libcurl libcurl4-openssl-dev)
lb_require(microhttpd libmicrohttpd libmicrohttpd-dev)
lb_require(sqlite sqlite3 libsqlite3-dev)
lb_require(pcre2 libpcre2-8 libpcre2-dev)
lb_require(utf8proc libutf8proc libutf8proc-dev)
if(LB_TESTS)
  lb_require(cmocka cmocka libcmocka-dev)
endif()
if(LB_MISSING_PACKAGES)
  list(JOIN LB_MISSING_PACKAGES " " LB_MISSING_LINE)
  message(FATAL_ERROR "Libraries are missing. On Debian: apt-get install ${LB_MISSING_LINE}")
endif()
