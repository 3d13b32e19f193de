typedef struct { double *out, *rstd, *inp, *weight, *dout; int N, C; } RmsnormCheck;

static double rmsnorm_check_loss(void* context) {
    RmsnormCheck* k = (RmsnormCheck*)context;
    rmsnorm_forward(k->out, k->rstd, k->inp, k->weight, k->N, k->C, 1e-6, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->N * k->C);
}

TEST(gradcheck_rmsnorm_inp_and_weight) {
    enum { N = 5, C = 24 };
    RmsnormCheck k = {gradcheck_filled(N * C, 0), gradcheck_filled(N, 0), gradcheck_normals(N * C, 1), gradcheck_normals(C, 2),
                      gradcheck_normals(N * C, 3), N, C};
    double *dinp = gradcheck_filled(N * C, 3), *dweight = gradcheck_filled(C, -2);
    void* scratch = malloc(rmsnorm_backward_scratch(N, C) + 1);
    rmsnorm_check_loss(&k);                                              // leaves rstd
    rmsnorm_backward(dinp, dweight, k.dout, k.inp, k.weight, k.rstd, N, C, scratch, NULL);
    gradcheck_take_away(dinp, N * C, 3);
    gradcheck_take_away(dweight, C, -2);
    gradcheck("dinp", k.inp, dinp, N * C, N * C, rmsnorm_check_loss, &k);
    gradcheck("dweight", k.weight, dweight, C, C, rmsnorm_check_loss, &k);
    free(k.out); free(k.rstd); free(k.inp); free(k.weight); free(k.dout); free(dinp); free(dweight); free(scratch);
}
