/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON reader, every accessor on every node, and the writers: what was read and written again
 * is the same value.
 */
#include "common/base/json.h"

#include <stdlib.h>
#include <string.h>

#define VISIT_MAX 2000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

static void visit(const lb_json *node, unsigned *budget);

static lb_status visit_member(void *arg, const char *key, const lb_json *value)
{
    must(key != NULL);
    visit(value, arg);
    return LB_OK;
}

static void typed_members(const lb_json *node)
{
    static const char *const keys[] = {"", "a", "k", "id"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        lb_err err = {0};
        const char *text = NULL;
        const lb_json *child = NULL;
        uint64_t u64 = 7;
        uint32_t u32 = 7;
        int64_t i64 = 7;
        double f64 = 0.5;
        bool flag = false;
        if (lb_json_need_string(node, "w", keys[i], &text, &err) == LB_OK)
            must(strlen(text) == lb_json_string_length(lb_json_get(node, keys[i])));
        if (lb_json_need_u64(node, "w", keys[i], 3, 9, &u64, &err) == LB_OK)
            must(u64 >= 3 && u64 <= 9);
        if (lb_json_opt_u32(node, "w", keys[i], 3, 9, &u32, &err) == LB_OK)
            must(u32 >= 3 && u32 <= 9);
        if (lb_json_opt_i64(node, "w", keys[i], -9, 9, &i64, &err) == LB_OK)
            must(i64 >= -9 && i64 <= 9);
        if (lb_json_opt_f64(node, "w", keys[i], -1, 1, &f64, &err) == LB_OK)
            must(f64 >= -1 && f64 <= 1);
        if (lb_json_opt_bool(node, "w", keys[i], &flag, &err) != LB_OK)
            must(err.field[0] == 'w');
        if (lb_json_need_object(node, "w", keys[i], &child, &err) == LB_OK)
            must(lb_json_is_object(child));
        if (lb_json_need_array(node, "w", keys[i], &child, &err) == LB_OK)
            must(lb_json_is_array(child));
    }
}

static void visit(const lb_json *node, unsigned *budget)
{
    if (*budget == 0)
        return;
    --*budget;
    must(lb_json_is_object(node) + lb_json_is_array(node) + lb_json_is_string(node) +
         lb_json_is_number(node) + lb_json_is_bool(node) + lb_json_is_null(node) == 1);
    must(!lb_json_string(node) == !lb_json_is_string(node));
    (void)lb_json_integer(node);
    (void)lb_json_number(node);
    (void)lb_json_bool(node);
    typed_members(node);
    must(lb_json_each(node, visit_member, budget) == LB_OK);
    for (size_t i = 0; i < lb_json_array_size(node); i++)
        visit(lb_json_at(node, i), budget);
}

/* The text of the value, with its keys sorted, so that equal values have equal texts. */
static void dump(const lb_json *node, lb_buf *out)
{
    lb_json_dump(out, node, true);
    must(out->status == LB_OK);
}

static void round_trip(const lb_json *root)
{
    lb_buf first = {0}, second = {0}, written = {0};
    lb_json *again = NULL;
    lb_jsonw w = {.out = &written};
    dump(root, &first);
    lb_jsonw_array(&w);
    lb_jsonw_node(&w, root);
    lb_jsonw_string_n(&w, (const char *)first.data, first.length);
    lb_jsonw_array_end(&w);
    must(written.status == LB_OK);
    /* Around the value stands one level more, which may be one too many. */
    if (lb_json_parse((char *)written.data, written.length, &again, NULL) == LB_OK) {
        dump(lb_json_at(again, 0), &second);
        must(first.length == second.length);
        must(memcmp(first.data, second.data, first.length) == 0);
        must(lb_json_string_length(lb_json_at(again, 1)) == first.length);
    }
    lb_json_free(again);
    lb_buf_free(&first);
    lb_buf_free(&second);
    lb_buf_free(&written);
}

/* Any bytes as a string, and any four as an f32, become JSON. */
static void write_bytes(const uint8_t *data, size_t size)
{
    lb_buf text = {0};
    lb_jsonw w = {.out = &text};
    lb_json *root = NULL;
    float value = 0.0f;
    memcpy(&value, data, size < sizeof value ? size : sizeof value);
    lb_jsonw_array(&w);
    lb_jsonw_string_n(&w, (const char *)data, size);
    lb_jsonw_f32(&w, value);
    lb_jsonw_array_end(&w);
    must(lb_json_parse((char *)text.data, text.length, &root, NULL) == LB_OK);
    const lb_json *number = lb_json_at(root, 1);
    float back = (float)lb_json_number(number);
    must(lb_json_is_null(number) || memcmp(&back, &value, sizeof back) == 0);
    lb_json_free(root);
    lb_buf_free(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lb_json *root = NULL;
    lb_err err = {0};
    unsigned budget = VISIT_MAX;
    if (lb_json_parse((const char *)data, size, &root, &err) == LB_OK) {
        visit(root, &budget);
        round_trip(root);
    } else {
        must(root == NULL && err.message[0] != '\0');
    }
    lb_json_free(root);
    if (size > 0)
        write_bytes(data, size);
    return 0;
}
