/* SPDX-License-Identifier: Apache-2.0 */
#include "common/model/lora_pattern.h"

#include <assert.h>
#include <string.h>

#define DEPTH_MAX 16u
#define COUNT_MAX 255u
#define UNBOUNDED UINT32_MAX
#define CLASS_COST 64u         /* steps that making and using a class counts as */

/* A set of positions 0 .. length of the text, a bit each. */
typedef uint64_t places;

typedef struct matcher {
    const char *at;            /* what is left of the pattern */
    const char *text;
    uint32_t length, depth;
    uint64_t *budget;
    bool bad;                  /* not implemented, or malformed */
} matcher;

typedef struct char_class {
    bool in[128];
} char_class;

static places run_alternation(matcher *m, places from);

/* Nothing after the first fault is looked at. */
static places fail_at(matcher *m)
{
    m->bad = true;
    m->at += strlen(m->at);
    return 0;
}

static void spend(matcher *m, uint64_t steps)
{
    *m->budget -= steps < *m->budget ? steps : *m->budget;
    if (*m->budget == 0)
        (void)fail_at(m);
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r') || (c >= '\x1c' && c <= '\x1f');
}

/* The characters of \d \w \s and their complements; false for another letter. */
static bool add_shorthand(char letter, char_class *set)
{
    bool negated = letter >= 'A' && letter <= 'Z';
    char kind = (char)(negated ? letter + 32 : letter);
    if (kind != 'd' && kind != 'w' && kind != 's')
        return false;
    for (int c = 0; c < 128; c++) {
        bool in = kind == 'd' ? c >= '0' && c <= '9' : kind == 'w' ? is_word((char)c)
                                                                   : is_space((char)c);
        set->in[c] = set->in[c] || in != negated;
    }
    return true;
}

static bool is_plain(char c)
{
    return c > 0 && c < 127;
}

/* One character of the set from each place of `from`. */
static places step(matcher *m, places from, const char_class *set)
{
    places to = 0;
    spend(m, CLASS_COST);
    for (uint32_t i = 0; i < m->length; i++) {
        unsigned char c = (unsigned char)m->text[i];
        if (from >> i & 1 && c < 128 && set->in[c])
            to |= (places)2 << i;
    }
    return to;
}

static places step_literal(const matcher *m, places from, char c)
{
    places to = 0;
    from &= ~((places)1 << m->length);
    for (; from; from &= from - 1) {
        int i = __builtin_ctzll(from);
        if (m->text[i] == c)
            to |= (places)2 << i;
    }
    return to;
}

static places at_word_edges(matcher *m, places from, bool wanted)
{
    places to = 0;
    spend(m, CLASS_COST);
    for (uint32_t i = 0; i <= m->length; i++) {
        bool before = i > 0 && is_word(m->text[i - 1]);
        bool after = i < m->length && is_word(m->text[i]);
        if (from >> i & 1 && (before != after) == wanted)
            to |= (places)1 << i;
    }
    return to;
}

/* After the '['. A range's ends are plain characters or escaped punctuation. */
static places run_class(matcher *m, places from)
{
    char_class set = {0};
    bool negated = *m->at == '^';
    m->at += negated;
    for (bool first = true; first || *m->at != ']'; first = false) {
        char low = *m->at++;
        if (low == '\\' && add_shorthand(*m->at, &set)) {
            m->at++;
            continue;
        }
        if (low == '\\') {
            low = *m->at++;
            if (is_word(low))
                low = 0;
        }
        char high = low;
        if (m->at[-1] && *m->at == '-' && m->at[1] && m->at[1] != ']') {
            high = m->at[1];
            m->at += 2;
        }
        if (!is_plain(low) || !is_plain(high) || high == '\\' || high < low) {
            m->at--;
            return fail_at(m);
        }
        for (int c = low; c <= high; c++)
            set.in[c] = true;
    }
    m->at++;
    for (int c = 0; negated && c < 128; c++)
        set.in[c] = !set.in[c];
    return step(m, from, &set);
}

static places run_group(matcher *m, places from)
{
    if (*m->at == '?') {
        if (m->at[1] != ':')
            return fail_at(m);
        m->at += 2;
    }
    if (m->depth == DEPTH_MAX)
        return fail_at(m);
    m->depth++;
    places to = run_alternation(m, from);
    m->depth--;
    if (*m->at != ')')
        return fail_at(m);
    m->at++;
    return to;
}

static places run_escape(matcher *m, places from)
{
    char c = *m->at;
    if (c == 'b' || c == 'B') {
        m->at++;
        return at_word_edges(m, from, c == 'b');
    }
    if (is_plain(c) && !is_word(c)) {
        m->at++;
        return step_literal(m, from, c);
    }
    char_class set = {0};
    if (!add_shorthand(c, &set))
        return fail_at(m);
    m->at++;
    return step(m, from, &set);
}

static places run_atom(matcher *m, places from)
{
    char c = *m->at++;
    switch (c) {
    case '(':
        return run_group(m, from);
    case '[':
        return run_class(m, from);
    case '\\':
        return run_escape(m, from);
    case '^':
        return from & 1;
    case '$':
        return from & (places)1 << m->length;
    case '.':
        return from << 1 & (((places)2 << m->length) - 1);
    case '*': case '+': case '?': case '{':
        m->at--;
        return fail_at(m);
    default:
        break;
    }
    if (!is_plain(c)) {
        m->at--;
        return fail_at(m);
    }
    return step_literal(m, from, c);
}

static bool read_count(matcher *m, uint32_t *out)
{
    const char *start = m->at;
    uint32_t value = 0;
    while (*m->at >= '0' && *m->at <= '9' && value <= COUNT_MAX)
        value = value * 10 + (uint32_t)(*m->at++ - '0');
    if (m->at == start)
        return false;
    *out = value;
    return true;
}

/* Reads a quantifier, lazy or not; without one, once. */
static void read_quantifier(matcher *m, uint32_t *min, uint32_t *max)
{
    char c = *m->at;
    *min = c == '*' || c == '?' || c == '{' ? 0 : 1;
    *max = c == '*' || c == '+' ? UNBOUNDED : 1;
    if (c != '*' && c != '+' && c != '?' && c != '{')
        return;
    m->at++;
    if (c == '{') {
        bool has_min = read_count(m, min), has_max = has_min;
        *max = *min;
        if (*m->at == ',') {
            m->at++;
            *max = UNBOUNDED;
            has_max = read_count(m, max);
        }
        if ((!has_min && !has_max) || *m->at != '}' || *min > COUNT_MAX || *min > *max ||
            (has_max && *max > COUNT_MAX)) {
            (void)fail_at(m);
            return;
        }
        m->at++;
    }
    if (*m->at == '?')
        m->at++;
}

static places run_repeated(matcher *m, places from)
{
    uint32_t min = 1, max = 1;
    const char *start = m->at;
    spend(m, 1);
    if (m->bad)
        return 0;
    places once = run_atom(m, from);
    read_quantifier(m, &min, &max);
    if (m->bad || (min == 1 && max == 1))
        return once;
    const char *end = m->at;
    places now = from, reached = min == 0 ? from : 0;
    for (uint32_t i = 1; now && !m->bad && (i <= min || i <= max); i++) {
        m->at = start;
        now = i == 1 ? once : run_atom(m, now);
        if (i >= min) {
            now &= ~reached;   /* to come again to a place opens nothing new */
            reached |= now;
        }
    }
    if (!m->bad)
        m->at = end;
    return reached;
}

static places run_alternation(matcher *m, places from)
{
    places to = 0;
    for (;;) {
        places now = from;
        while (*m->at && *m->at != '|' && *m->at != ')')
            now = run_repeated(m, now);
        to |= now;
        if (*m->at != '|')
            return to;
        m->at++;
    }
}

lb_status lb_pattern_match(const char *pattern, lb_pattern_mode mode, const char *text,
                           const char *field, uint64_t *budget, bool *out, lb_err *err)
{
    matcher m = {.at = pattern, .text = text, .length = (uint32_t)strlen(text), .budget = budget};
    places from = 1;
    assert(m.length <= LB_PATTERN_TEXT_MAX);
    for (uint32_t i = 0; mode == LB_PATTERN_TAIL && i < m.length; i++) {
        if (text[i] == '.')
            from |= (places)2 << i;
    }
    places to = run_alternation(&m, from);
    if (*budget == 0)
        return lb_fail(err, LB_ETOOBIG, field, "its patterns take too long to match");
    if (m.bad || *m.at)
        return lb_fail(err, LB_EUNSUPPORTED, field,
                       "the regular expression '%.80s' is not supported", pattern);
    *out = to >> m.length & 1;
    return LB_OK;
}
