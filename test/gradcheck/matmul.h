typedef struct { double *out, *inp, *weight, *dout; int N, C, OC; } MatmulCheck;

static double matmul_check_loss(void* context) {
    MatmulCheck* k = (MatmulCheck*)context;
    matmul_forward(k->out, k->inp, k->weight, k->N, k->C, k->OC, NULL, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->N * k->OC);
}

// shapes: smaller than a register block; ragged tiles; an inner dimension of several pieces
static void matmul_check(int N, int C, int OC) {
    size_t inps = (size_t)N * C, outs = (size_t)N * OC, weights = (size_t)OC * C;
    MatmulCheck k = {gradcheck_filled(outs, 0), gradcheck_normals(inps, 1), gradcheck_normals(weights, 2), gradcheck_normals(outs, 3), N, C, OC};
    double *dinp = gradcheck_filled(inps, 7), *dweight = gradcheck_filled(weights, 3);
    matmul_backward_input(dinp, k.dout, k.weight, N, C, OC, NULL, NULL);           // set
    matmul_backward_weight(dweight, k.dout, k.inp, N, C, OC, 1, NULL, NULL);       // added
    gradcheck_take_away(dweight, weights, 3);
    gradcheck("dinp", k.inp, dinp, inps, 60, matmul_check_loss, &k);
    gradcheck("dweight", k.weight, dweight, weights, 60, matmul_check_loss, &k);
    free(k.out); free(k.inp); free(k.weight); free(k.dout); free(dinp); free(dweight);
}

TEST(gradcheck_matmul_small)  { matmul_check(3, 8, 8); }
TEST(gradcheck_matmul_ragged) { matmul_check(67, 72, 40); }
TEST(gradcheck_matmul_deep)   { matmul_check(530, 264, 16); }
