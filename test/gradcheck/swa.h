// swa_backward against finite differences of sum(dout * swa_forward): short, middle and dense windows, q and v inside a wider row.
#include "attn_case.h"

typedef struct {
    AttnShape shape;
    int window;
    float *qv, *k, *dout, *out, *lse;    // q at column 0 and v at column 2*H*D of qv
} SwaCase;

static double gradcheck_swa_loss(void* context) {
    SwaCase* c = (SwaCase*)context;
    size_t n = (size_t)c->shape.B * c->shape.T * c->shape.ldo;
    swa_forward(c->out, c->lse, c->qv, c->k, c->qv + 2 * c->shape.H * c->shape.D, c->shape, c->window, NULL);
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += c->dout[i] * c->out[i]; }
    return sum;
}

static void gradcheck_swa_window(int T, int window) {
    SwaCase c = {attn_shape(2, T, 2, 8), window, NULL, NULL, NULL, NULL, NULL};
    size_t n = (size_t)c.shape.B * T * c.shape.ldo;
    int v_at = 2 * c.shape.H * c.shape.D;
    c.qv = attn_normals(3 * n, 1);
    c.k = attn_normals(n, 2);
    c.dout = attn_normals(n, 3);
    c.out = attn_normals(n, 4);
    c.lse = attn_normals((size_t)c.shape.B * c.shape.H * T, 5);
    float *dqv = attn_normals(3 * n, 6), *dk = attn_normals(n, 7);    // set, not added: garbage before
    for (size_t row = 0; row < (size_t)c.shape.B * T; row++) {        // the middle columns are no one's
        memset(dqv + row * c.shape.ldq + c.shape.H * c.shape.D, 0, (size_t)c.shape.H * c.shape.D * sizeof(float));
    }
    gradcheck_swa_loss(&c);
    swa_backward(dqv, dk, dqv + v_at, c.dout, c.out, c.lse, c.qv, c.k, c.qv + v_at, c.shape, window, NULL, NULL);
    gradcheck("swa dq and dv", c.qv, dqv, 3 * n, 200, gradcheck_swa_loss, &c);
    gradcheck("swa dk", c.k, dk, n, 100, gradcheck_swa_loss, &c);
    free(c.qv); free(c.k); free(c.dout); free(c.out); free(c.lse); free(dqv); free(dk);
}

TEST(gradcheck_swa_window_1)     { gradcheck_swa_window(5, 1); }
TEST(gradcheck_swa_window_3)     { gradcheck_swa_window(9, 3); }
TEST(gradcheck_swa_dense)        { gradcheck_swa_window(9, 9); }
