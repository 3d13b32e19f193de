typedef struct { double *out, *wte, *dout; const int* tokens; int N, C; } EmbeddingCheck;

static double embedding_check_loss(void* context) {
    EmbeddingCheck* k = (EmbeddingCheck*)context;
    embedding_forward(k->out, k->wte, k->tokens, k->N, k->C, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->N * k->C);
}

TEST(gradcheck_embedding_wte) {
    enum { N = 11, C = 8, V = 7 };
    const int tokens[N] = {3, 0, 3, 6, 6, 3, 2, 0, 5, 3, 6};
    EmbeddingCheck k = {gradcheck_filled(N * C, 0), gradcheck_normals(V * C, 1), gradcheck_normals(N * C, 2), tokens, N, C};
    double* dwte = gradcheck_filled(V * C, 3);
    void* scratch = malloc(embedding_backward_scratch(N, C, V));
    embedding_backward(dwte, k.dout, tokens, N, C, V, scratch, NULL);
    gradcheck_take_away(dwte, V * C, 3);
    gradcheck("dwte", k.wte, dwte, V * C, V * C, embedding_check_loss, &k);
    free(k.out); free(k.wte); free(k.dout); free(dwte); free(scratch);
}
