typedef struct { double *out, *gate_up, *dout; int N, F; } SwigluCheck;

static double swiglu_check_loss(void* context) {
    SwigluCheck* k = (SwigluCheck*)context;
    swiglu_forward(k->out, k->gate_up, k->N, k->F, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->N * k->F);
}

TEST(gradcheck_swiglu_gate_and_up) {
    enum { N = 4, F = 16 };
    SwigluCheck k = {gradcheck_filled(N * F, 0), gradcheck_normals(2 * N * F, 1), gradcheck_normals(N * F, 2), N, F};
    double* dgate_up = gradcheck_filled(2 * N * F, 7);                   // set: what was there must not show
    swiglu_backward(dgate_up, k.dout, k.gate_up, N, F, NULL);
    gradcheck("dgate_up", k.gate_up, dgate_up, 2 * N * F, 2 * N * F, swiglu_check_loss, &k);
    free(k.out); free(k.gate_up); free(k.dout); free(dgate_up);
}
