/* SPDX-License-Identifier: Apache-2.0
 *
 * The safetensors reader: every byte that it hands out is read, and an image that it accepts is
 * accepted again after it was written.
 */
#include "common/io/safetensors.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_MAX (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* What a tensor says of itself must hold. */
static void check(const lb_safetensors *file, size_t index, const uint8_t *data, size_t size)
{
    const lb_st_tensor *t = lb_safetensors_at(file, index);
    size_t bytes = lb_st_dtype_size(t->dtype);
    unsigned sum = 0;
    must(t->rank <= LB_SAFETENSORS_RANK_MAX && bytes > 0 && t->name[0] != '\0');
    must(t->data >= data && t->bytes <= (size_t)(data + size - t->data));
    for (uint32_t i = 0; i < t->rank; i++)
        bytes *= t->shape[i];
    must(bytes == t->bytes);
    for (size_t i = 0; i < t->bytes; i++)
        sum += t->data[i];
    must(sum <= 255u * t->bytes);
    must(lb_safetensors_find(file, t->name) == t);
}

static void write_again(const lb_safetensors *file)
{
    size_t count = lb_safetensors_count(file);
    lb_st_source *sources = calloc(count + 1, sizeof *sources);
    lb_safetensors *again = NULL;
    lb_buf out = {0};
    must(sources != NULL);
    for (size_t i = 0; i < count; i++) {
        const lb_st_tensor *t = lb_safetensors_at(file, i);
        sources[i] = (lb_st_source){.name = t->name, .dtype = t->dtype, .rank = t->rank,
                                    .data = t->data};
        memcpy(sources[i].shape, t->shape, sizeof t->shape);
    }
    must(lb_safetensors_write(sources, count, NULL, 0, &out, NULL) == LB_OK);
    must(lb_safetensors_open(out.data, out.length, LB_SAFETENSORS_HEADER_MAX, &again, NULL) ==
         LB_OK);
    must(lb_safetensors_count(again) == count);
    for (size_t i = 0; i < count; i++) {
        const lb_st_tensor *t = lb_safetensors_find(again, sources[i].name);
        must(t != NULL && memcmp(t->data, sources[i].data, t->bytes) == 0);
    }
    lb_safetensors_close(again);
    lb_buf_free(&out);
    free(sources);
}

static void read_image(const uint8_t *data, size_t size)
{
    lb_safetensors *file = NULL;
    lb_err err = {0};
    if (lb_safetensors_open(data, size, HEADER_MAX, &file, &err) != LB_OK) {
        must(file == NULL && err.message[0] != '\0' && (err.field[0] || err.status == LB_ENOMEM));
        return;
    }
    for (size_t i = 0; i < lb_safetensors_count(file); i++)
        check(file, i, data, size);
    must(lb_safetensors_at(file, lb_safetensors_count(file)) == NULL);
    (void)lb_safetensors_find(file, "lm_head.weight");
    (void)lb_safetensors_metadata(file, "format");
    write_again(file);
    lb_safetensors_close(file);
}

/* Once as it is, and once as the header alone with as many bytes of data as it has, because the
 * fuzzer rarely finds a length that fits. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lb_buf image = {0};
    read_image(data, size);
    size_t header = size;
    while (header > 0 && data[header - 1] != '}')
        header--;
    lb_buf_u64(&image, header);
    lb_buf_append(&image, data, size);
    must(image.status == LB_OK);
    read_image(image.data, image.length);
    lb_buf_free(&image);
    return 0;
}
