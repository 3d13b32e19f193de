typedef struct { double *inp, *out, *table, *dout; int N, T, heads, D, ld; } RopeCheck;

static double rope_check_loss(void* context) {
    RopeCheck* k = (RopeCheck*)context;
    memcpy(k->out, k->inp, (size_t)k->N * k->ld * sizeof(double));      // the op works in place
    rope_forward(k->out, k->table, k->N, k->T, k->heads, k->D, k->ld, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->N * k->ld);
}

TEST(gradcheck_rope_turned_and_other_columns) {
    enum { T = 3, N = 2 * T, HEADS = 2, D = 8, LD = 24 };
    RopeCheck k = {gradcheck_normals(N * LD, 1), gradcheck_filled(N * LD, 0), gradcheck_filled(T * D, 0), gradcheck_normals(N * LD, 2), N, T, HEADS, D, LD};
    for (int i = 0; i < T * D / 2; i++) {
        k.table[2 * i]     = cos(0.7 * i);
        k.table[2 * i + 1] = sin(0.7 * i);
    }
    double* dx = gradcheck_filled(N * LD, 0);
    memcpy(dx, k.dout, N * LD * sizeof(double));
    rope_backward(dx, k.table, N, T, HEADS, D, LD, NULL);
    gradcheck("dx", k.inp, dx, N * LD, N * LD, rope_check_loss, &k);
    free(k.inp); free(k.out); free(k.table); free(k.dout); free(dx);
}
