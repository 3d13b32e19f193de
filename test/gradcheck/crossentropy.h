typedef struct { double *losses, *logits, scale; const int* targets; int N, V, Vp; } CrossentropyCheck;

static double crossentropy_check_loss(void* context) {
    CrossentropyCheck* k = (CrossentropyCheck*)context;
    double total = 0;
    crossentropy_forward(k->losses, k->logits, k->targets, k->N, k->V, k->Vp, NULL);
    crossentropy_total(&total, k->losses, k->N, NULL);
    return k->scale * total;
}

// padded columns and the unscored row are among the elements moved: their gradient is zero both ways
TEST(gradcheck_crossentropy_logits) {
    enum { N = 5, V = 13, Vp = 16 };
    const int targets[N] = {0, 12, -1, 5, 5};
    CrossentropyCheck k = {gradcheck_filled(N, 0), gradcheck_normals(N * Vp, 1), 0.37, targets, N, V, Vp};
    double* dlogits = (double*)malloc(N * Vp * sizeof(double));
    memcpy(dlogits, k.logits, N * Vp * sizeof(double));
    crossentropy_forward_backward(k.losses, dlogits, targets, k.scale, N, V, Vp, NULL);
    gradcheck("dlogits", k.logits, dlogits, N * Vp, N * Vp, crossentropy_check_loss, &k);
    free(k.losses); free(k.logits); free(dlogits);
}
