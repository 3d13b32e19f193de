typedef struct { double *out, *k, *w, *dout; int B, T, C, W, ldk; } KconvCheck;

static double kconv_check_loss(void* context) {
    KconvCheck* k = (KconvCheck*)context;
    kconv_forward(k->out, k->k, k->w, k->B, k->T, k->C, k->W, k->ldk, NULL);
    return gradcheck_dot(k->out, k->dout, (size_t)k->B * k->T * k->C);
}

static void kconv_check(int B, int T, int C, int W, int ldk) {
    size_t rows = (size_t)B * T, taps = (size_t)W * C;
    KconvCheck k = {gradcheck_filled(rows * C, 0), gradcheck_normals(rows * ldk, 1), gradcheck_normals(taps, 2), gradcheck_normals(rows * C, 3), B, T, C, W, ldk};
    double *dk = gradcheck_filled(rows * ldk, 0), *dw = gradcheck_filled(taps, 4);
    for (size_t row = 0; row < rows; row++) {
        for (int c = 0; c < C; c++) { dk[row * ldk + c] = 99; }         // set; the columns beside the keys keep their zero gradient
    }
    void* scratch = malloc(kconv_backward_scratch(B, T, C, W));
    kconv_backward(dk, dw, k.dout, k.k, k.w, B, T, C, W, ldk, scratch, NULL);
    gradcheck_take_away(dw, taps, 4);                                    // added
    gradcheck("dk", k.k, dk, rows * ldk, 200, kconv_check_loss, &k);
    gradcheck("dw", k.w, dw, taps, 200, kconv_check_loss, &k);
    free(k.out); free(k.k); free(k.w); free(k.dout); free(dk); free(dw); free(scratch);
}

TEST(gradcheck_kconv_three_taps)             { kconv_check(2, 6, 8, 3, 8); }
TEST(gradcheck_kconv_five_taps)              { kconv_check(2, 7, 16, 5, 24); }
TEST(gradcheck_kconv_shorter_than_its_taps)  { kconv_check(3, 2, 8, 5, 16); }
