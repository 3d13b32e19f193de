#include "params.h"

#include "rng.h"

bool shape_from_config(ModelShape* s, const Config* cfg, Error* err) {
    memset(s, 0, sizeof *s);
    s->L = cfg->layers;
    s->C = cfg->channels;
    s->H = cfg->heads;
    s->D = cfg->channels / cfg->heads;
    s->F = cfg->mlp;
    s->V = cfg->vocab;
    s->Vp = (int)round_up((size_t)cfg->vocab, 128);
    s->W = cfg->kconv;
    s->theta = cfg->theta;
    s->ranks = cfg->ranks;
    s->layer = (LayerSpec*)xcalloc((size_t)s->L, sizeof(LayerSpec));
    return pattern_parse(s->layer, s->L, cfg->pattern, err);
}

bool is_moba(const ModelShape* s, int l)    { return s->layer[l].kind == LAYER_M; }
int  kconv_taps(const ModelShape* s, int l) { return is_moba(s, l) ? s->W : 0; }

static void add(ParamTable* table, int layer, const char* field, bool is_matrix, int rows, int cols, InitKind init) {
    Tensor* t = &table->tensor[table->count++];
    if (layer < 0) { snprintf(t->name, sizeof t->name, "%s", field); }
    else           { snprintf(t->name, sizeof t->name, "layer.%02d.%s", layer, field); }
    t->is_matrix = is_matrix;
    t->init = init;
    t->rows = rows;
    t->cols = cols;
    table->parameters += (size_t)rows * (size_t)cols;
}

// unit: what matrices, and vectors, are padded to altogether
static size_t place(ParamTable* table, bool matrices, size_t offset, size_t unit) {
    for (int i = 0; i < table->count; i++) {
        Tensor* t = &table->tensor[i];
        if (t->is_matrix != matrices) { continue; }
        t->offset = offset;
        offset += round_up((size_t)t->rows * (size_t)t->cols, PARAM_ALIGN);
    }
    return round_up(offset, unit);
}

ParamTable param_table(const ModelShape* s) {
    enum { VECTOR, MATRIX };
    ParamTable table = {0};
    table.tensor = (Tensor*)xcalloc((size_t)(MODEL_FIELDS + s->L * LAYER_FIELDS), sizeof(Tensor));
#define ADD_MODEL(field, type, rows, cols, init) add(&table, -1, #field, type == MATRIX, rows, cols, init);
    MODEL_PARAMS(ADD_MODEL)
    for (int l = 0; l < s->L; l++) {
#define ADD_LAYER(field, type, rows, cols, init) add(&table, l, #field, type == MATRIX, rows, cols, init);
        LAYER_PARAMS(ADD_LAYER)
    }
    size_t unit = (size_t)PARAM_ALIGN * (size_t)max_int(s->ranks, 1);
    table.matrix_elements = place(&table, true, 0, unit);
    table.elements = place(&table, false, table.matrix_elements, unit);
    return table;
}

void param_table_free(ParamTable* table) {
    free(table->tensor);
    table->tensor = NULL;
}

size_t parameter_formula(const ModelShape* s) {
    size_t C = (size_t)s->C, F = (size_t)s->F, total = (size_t)s->Vp * C + C;
    for (int l = 0; l < s->L; l++) { total += 4 * C * C + 3 * F * C + 2 * C + (is_moba(s, l) ? (size_t)s->W * C : 0); }
    return total;
}

// ---- initialisation ---------------------------------------------------------------------------------------------------

static void init_tensor(float* out, const Tensor* t, const ModelShape* s, uint64_t seed) {
    bool padded = strcmp(t->name, "wte") == 0;                                 // rows V..Vp-1 stay zero
    int64_t n = (int64_t)t->rows * t->cols, drawn = padded ? (int64_t)s->V * s->C : n;
    uint64_t stream = rng_stream(t->name);
    double std = t->init == INIT_RESIDUAL ? 0.02 / sqrt(2.0 * s->L) : 0.02, reach = 1 / sqrt((double)max_int(s->W, 1));
    #pragma omp parallel for
    for (int64_t i = 0; i < n; i++) {
        uint64_t element = (uint64_t)i;
        if (i >= drawn)                  { out[i] = 0; }
        else if (t->init == INIT_ONE)    { out[i] = 1; }
        else if (t->init == INIT_TAPS)   { out[i] = (float)((2 * rng_uniform(seed, stream, element) - 1) * reach); }
        else                             { out[i] = (float)(std * rng_normal(seed, stream, element)); }
    }
}

void params_init(float* master, const ParamTable* table, const ModelShape* s, uint64_t seed) {
    memset(master, 0, table->elements * sizeof(float));
    for (int i = 0; i < table->count; i++) { init_tensor(master + table->tensor[i].offset, &table->tensor[i], s, seed); }
}

// ---- views ------------------------------------------------------------------------------------------------------------

#define MATRIX_AT(i) (matrices + table->tensor[i].offset)
#define VECTOR_AT(i) (vectors + (table->tensor[i].offset - table->matrix_elements))

LayerParams layer_params(const ParamTable* table, const floatX* matrices, const float* vectors, int l) {
    int first = MODEL_FIELDS + l * LAYER_FIELDS;
    LayerParams view;
#define VIEW_LAYER(field, type, ...) view.field = type##_AT(first + LAYER_##field);
    LAYER_PARAMS(VIEW_LAYER)
    return view;
}

ModelParams model_params(const ParamTable* table, const floatX* matrices, const float* vectors) {
    ModelParams view;
#define VIEW_MODEL(field, type, ...) view.field = type##_AT(MODEL_##field);
    MODEL_PARAMS(VIEW_MODEL)
    return view;
}

LayerGrads layer_grads(const ParamTable* table, float* grads, int l) {
    int first = MODEL_FIELDS + l * LAYER_FIELDS;
    LayerGrads view;
#define GRAD_LAYER(field, ...) view.field = grads + table->tensor[first + LAYER_##field].offset;
    LAYER_PARAMS(GRAD_LAYER)
    return view;
}

ModelGrads model_grads(const ParamTable* table, float* grads) {
    ModelGrads view;
#define GRAD_MODEL(field, ...) view.field = grads + table->tensor[MODEL_##field].offset;
    MODEL_PARAMS(GRAD_MODEL)
    return view;
}
