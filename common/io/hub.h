/* SPDX-License-Identifier: Apache-2.0
 *
 * lb_hub - finds a model by path, or by its name on the Hugging Face hub in this machine's cache:
 *
 *     ROOT/models--ORG--NAME/refs/main              the revision's name
 *     ROOT/models--ORG--NAME/snapshots/REVISION/    the files
 *
 * Nothing is fetched. What is not there is an error that says what was tried and which command of
 * huggingface_hub would bring it. Stateless.
 */
#ifndef LB_COMMON_IO_HUB_H
#define LB_COMMON_IO_HUB_H

#include "common/base/status.h"

#include <stddef.h>

/* Whom to ask for a variable; programs pass getenv. Libraries read no environment. */
typedef char *(*lb_hub_lookup)(const char *name);

/* The cache's root as huggingface_hub takes it: $HF_HUB_CACHE, $HF_HOME/hub,
 * $XDG_CACHE_HOME/huggingface/hub, $HOME/.cache/huggingface/hub; "" without any of them. */
LB_NODISCARD lb_status lb_hub_cache_root(lb_hub_lookup lookup, char *out, size_t size,
                                         lb_err *err);

/* An existing folder or file is taken as it is; otherwise ORG/NAME is looked up under cache_root
 * ("" or NULL: there is no cache). LB_ENOTFOUND, field "model"; LB_EDATA, when the cache holds an
 * entry that cannot be followed. */
LB_NODISCARD lb_status lb_hub_resolve(const char *name_or_path, const char *cache_root, char *path,
                                      size_t size, lb_err *err);

/* Both of the above. */
LB_NODISCARD lb_status lb_hub_find(lb_hub_lookup lookup, const char *name_or_path, char *path,
                                   size_t size, lb_err *err);

/* For options of the form NAME=MODEL: replaces each item whose MODEL stands in the cache.
 * owned[count], zeroed by the caller, holds what was made; free each after the items' last use. */
LB_NODISCARD lb_status lb_hub_find_named(lb_hub_lookup lookup, const char **items, size_t count,
                                         char **owned, lb_err *err);

#endif
