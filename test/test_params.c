// The parameter table: its size for every preset, and what initial values are a function of.
#include "test.h"

#include "config.h"
#include "params.h"

typedef struct {
    ModelShape shape;
    ParamTable table;
} Parameters;

// options: what a command line would say, apart by blanks
static Parameters parameters_of(const char* options) {
    Error err;
    Config cfg;
    char* argv[32];
    int argc = 0;
    char* text = xformat("test --dry-run %s", options);
    for (char* word = strtok(text, " "); word; word = strtok(NULL, " ")) { argv[argc++] = word; }
    bool good = config_parse_into(&cfg, argc, argv, &err) && config_resolve(&cfg, &err);
    free(text);
    CHECK(good, "%s: %s", options, err.text);
    Parameters p;
    CHECK(shape_from_config(&p.shape, &cfg, &err), "%s", err.text);
    config_close(&cfg);
    p.table = param_table(&p.shape);
    return p;
}

static void parameters_free(Parameters* p) {
    free(p->shape.layer);
    param_table_free(&p->table);
}

static const Tensor* tensor_of(const Parameters* p, const char* name) {
    for (int i = 0; i < p->table.count; i++) {
        if (strcmp(p->table.tensor[i].name, name) == 0) { return &p->table.tensor[i]; }
    }
    CHECK(0, "there is no tensor %s", name);
    return NULL;
}

static float* values_of(const Parameters* p, uint64_t seed) {
    float* values = (float*)xmalloc(p->table.elements * sizeof(float));
    memset(values, 0xff, p->table.elements * sizeof(float));           // NaN: an element left out shows
    params_init(values, &p->table, &p->shape, seed);
    return values;
}

static size_t size_of(const Tensor* t) { return (size_t)t->rows * (size_t)t->cols; }

TEST(params_counts_are_the_closed_formula) {
    static const char* const presets[] = {"tiny", "30M", "124M", "340M", "1B"};
    static const char* const layers[] = {"", "--kconv 0", "--kconv 5", "--pattern D", "--pattern M128:8", "--pattern S256,M512:2,D"};
    for (int i = 0; i < 5; i++) {
        for (int j = 0; j < 6; j++) {
            char* options = xformat("--preset %s %s", presets[i], layers[j]);
            Parameters p = parameters_of(options);
            size_t sum = 0;
            for (int t = 0; t < p.table.count; t++) { sum += size_of(&p.table.tensor[t]); }
            CHECK(p.table.parameters == parameter_formula(&p.shape), "%s: the table has %zu parameters, the formula %zu",
                  options, p.table.parameters, parameter_formula(&p.shape));
            CHECK(sum == p.table.parameters, "%s: the tensors have %zu elements, the table says %zu", options, sum, p.table.parameters);
            parameters_free(&p);
            free(options);
        }
    }
}

TEST(params_counts_are_the_published_ones) {
    static const struct { const char* options; double millions; } published[] = {
        {"--preset tiny", 0.9}, {"--preset 30M", 29.9}, {"--preset 124M", 123.6}, {"--preset 340M", 359.8},
        {"--preset 340M --vocab 32000", 341.1}, {"--preset 1B", 1176.8},
    };
    for (int i = 0; i < 6; i++) {
        char* options = xformat("%s --kconv 0", published[i].options);
        Parameters p = parameters_of(options);
        CHECK(fabs((double)p.table.parameters / 1e6 - published[i].millions) <= 0.05, "%s: %zu parameters, published are %.1f million",
              published[i].options, p.table.parameters, published[i].millions);
        parameters_free(&p);
        free(options);
    }
}

TEST(params_tensors_do_not_overlap) {
    Parameters p = parameters_of("--preset tiny --pattern S64,M64:2 --vocab 300 --mlp 200 --channels 120 --heads 3");
    bool* taken = (bool*)xcalloc(p.table.elements, sizeof(bool));
    for (int i = 0; i < p.table.count; i++) {
        const Tensor* t = &p.table.tensor[i];
        CHECK_EQ(t->offset % 64, 0);
        CHECK(t->offset + size_of(t) <= (t->is_matrix ? p.table.matrix_elements : p.table.elements), "%s ends beyond its arena", t->name);
        CHECK(t->is_matrix || t->offset >= p.table.matrix_elements, "%s lies among the matrices", t->name);
        for (size_t j = 0; j < size_of(t); j++) {
            CHECK(!taken[t->offset + j], "%s overlaps another tensor at element %zu", t->name, j);
            taken[t->offset + j] = true;
        }
    }
    free(taken);
    parameters_free(&p);
}

TEST(params_padded_vocabulary_is_zero) {
    Parameters p = parameters_of("--preset tiny");
    const Tensor* wte = tensor_of(&p, "wte");
    float* values = values_of(&p, 1);
    CHECK_EQ(wte->rows, 384);
    int zeros = 0;
    for (size_t i = 0; i < size_of(wte); i++) {
        bool padding = i >= (size_t)257 * 128;
        CHECK(!padding || values[wte->offset + i] == 0, "element %zu of wte, of a row above the vocabulary, is %g", i, (double)values[wte->offset + i]);
        zeros += !padding && values[wte->offset + i] == 0;
    }
    CHECK_EQ(zeros, 0);
    free(values);
    parameters_free(&p);
}

// mean and deviation of n independent draws lie within 5 standard errors of the distribution's
static void check_normal(const Parameters* p, const float* values, const char* name, size_t n, double std) {
    const float* x = values + tensor_of(p, name)->offset;
    double sum = 0, squares = 0;
    for (size_t i = 0; i < n; i++) { sum += (double)x[i]; squares += (double)x[i] * (double)x[i]; }
    CHECK(fabs(sum / (double)n) <= 5 * std / sqrt((double)n), "%s: mean %g", name, sum / (double)n);
    CHECK(fabs(sqrt(squares / (double)n) / std - 1) <= 5 / sqrt(2.0 * (double)n), "%s: deviation %g, expected %g", name, sqrt(squares / (double)n), std);
}

TEST(params_start_with_the_right_spread) {
    Parameters p = parameters_of("--preset tiny --pattern S64,M64:2 --kconv 5");
    float* values = values_of(&p, 7);
    check_normal(&p, values, "wte", 257 * 128, 0.02);
    check_normal(&p, values, "layer.00.wqkv", 3 * 128 * 128, 0.02);
    check_normal(&p, values, "layer.01.w13", 2 * 384 * 128, 0.02);
    check_normal(&p, values, "layer.03.wo", 128 * 128, 0.02 / sqrt(8));
    check_normal(&p, values, "layer.03.w2", 128 * 384, 0.02 / sqrt(8));
    const Tensor *norm = tensor_of(&p, "layer.02.norm2"), *taps = tensor_of(&p, "layer.01.kconv");
    for (size_t i = 0; i < size_of(norm); i++) { CHECK(values[norm->offset + i] == 1, "norm weight %zu starts at %g", i, (double)values[norm->offset + i]); }
    double sum = 0, squares = 0, n = (double)size_of(taps);
    CHECK_EQ(size_of(taps), 5 * 128);
    for (size_t i = 0; i < size_of(taps); i++) {
        double w = values[taps->offset + i];
        CHECK(fabs(w) <= 1 / sqrt(5), "tap %zu is %g", i, w);
        sum += w;
        squares += w * w;
    }
    CHECK_NEAR(sum / n, 0, 5 * sqrt(1 / 15.0 / n));                                       // variance of U(-a, a) is a^2/3
    CHECK_NEAR(squares / n, 1 / 15.0, 5 * sqrt(4 / 45.0 / 25 / n));                       // of its square, 4 a^4/45
    CHECK_EQ(tensor_of(&p, "layer.00.kconv")->rows, 0);
    free(values);
    parameters_free(&p);
}

TEST(params_same_seed_same_bits) {
    Parameters p = parameters_of("--preset tiny");
    float *a = values_of(&p, 3), *b = values_of(&p, 3), *c = values_of(&p, 4);
    CHECK(memcmp(a, b, p.table.elements * sizeof(float)) == 0, "two initialisations with seed 3 differ");
    size_t equal = 0;
    for (int i = 0; i < p.table.count; i++) {
        const Tensor* t = &p.table.tensor[i];
        size_t drawn = strcmp(t->name, "wte") == 0 ? (size_t)257 * 128 : size_of(t);
        for (size_t j = 0; j < drawn; j++) { equal += t->init != INIT_ONE && a[t->offset + j] == c[t->offset + j]; }
    }
    CHECK(equal < p.table.elements / 1000, "seeds 3 and 4 share %zu of %zu values", equal, p.table.elements);
    free(a);
    free(b);
    free(c);
    parameters_free(&p);
}

// correlation of the first 10000 values of any two matrices, in standard errors of independent draws
TEST(params_different_names_are_different_streams) {
    enum { N = 10000 };
    Parameters p = parameters_of("--preset tiny --pattern D");
    float* values = values_of(&p, 3);
    for (int i = 0; i < p.table.count; i++) {
        for (int j = 0; j < i; j++) {
            const Tensor *a = &p.table.tensor[i], *b = &p.table.tensor[j];
            if (!a->is_matrix || !b->is_matrix) { continue; }
            double ab = 0, aa = 0, bb = 0;
            for (size_t e = 0; e < N; e++) {
                double x = values[a->offset + e], y = values[b->offset + e];
                ab += x * y; aa += x * x; bb += y * y;
            }
            CHECK(fabs(ab / sqrt(aa * bb)) <= 5 / sqrt(N), "%s and %s: correlation %g", a->name, b->name, ab / sqrt(aa * bb));
        }
    }
    free(values);
    parameters_free(&p);
}

TEST(params_depth_does_not_shift_the_streams) {
    Parameters shallow = parameters_of("--preset tiny --layers 2 --pattern S64,M64:2"), deep = parameters_of("--preset tiny --layers 8 --pattern S64,M64:2");
    float *a = values_of(&shallow, 3), *b = values_of(&deep, 3);
    for (int i = 0; i < shallow.table.count; i++) {
        const Tensor *t = &shallow.table.tensor[i], *u = tensor_of(&deep, t->name);
        CHECK_EQ(size_of(t), size_of(u));
        double scale = t->init == INIT_RESIDUAL ? 2 : 1;               // 1/sqrt(2L) of 2 and of 8 layers
        for (size_t j = 0; j < size_of(t); j++) {
            double x = a[t->offset + j], y = scale * b[u->offset + j];
            CHECK(scale == 1 ? x == y : fabs(x - y) <= 1e-6 * fabs(x), "%s, element %zu: %.9g with 2 layers, %.9g with 8", t->name, j, x, y);
        }
    }
    free(a);
    free(b);
    parameters_free(&shallow);
    parameters_free(&deep);
}

TEST_MAIN()
