// swa_backward against finite differences of sum(dout * swa_forward): short, middle and dense windows, q and v inside a wider row, and with
// q and k turned by rope_forward in front of it.
#include "attn_case.h"
#include "rope_table.h"

typedef struct {
    AttnShape shape;
    int window;
    float *qv, *k, *dout, *out, *lse;    // q at column 0 and v at column 2*H*D of qv
    float *turned_qv, *turned_k;         // what the attention reads; without rope the same values
    float* rope;                         // or NULL
} SwaCase;

static double gradcheck_swa_loss(void* context) {
    SwaCase* c = (SwaCase*)context;
    AttnShape s = c->shape;
    size_t n = (size_t)s.B * s.T * s.ldo;
    memcpy(c->turned_qv, c->qv, 3 * n * sizeof(float));
    memcpy(c->turned_k, c->k, n * sizeof(float));
    if (c->rope != NULL) {
        rope_forward(c->turned_qv, c->rope, s.B * s.T, s.T, s.H, s.D, s.ldq, NULL);
        rope_forward(c->turned_k, c->rope, s.B * s.T, s.T, s.H, s.D, s.ldk, NULL);
    }
    swa_forward(c->out, c->lse, c->turned_qv, c->turned_k, c->turned_qv + 2 * s.H * s.D, s, c->window, NULL);
    return gradcheck_dot(c->dout, c->out, n);
}

static void gradcheck_swa_window(int T, int window, float* rope) {
    SwaCase c = {attn_shape(2, T, 2, 8), window, NULL, NULL, NULL, NULL, NULL, NULL, NULL, rope};
    size_t n = (size_t)c.shape.B * T * c.shape.ldo;
    int v_at = 2 * c.shape.H * c.shape.D;
    c.qv = attn_normals(3 * n, 1);
    c.k = attn_normals(n, 2);
    c.dout = attn_normals(n, 3);
    c.out = attn_normals(n, 4);
    c.lse = attn_normals((size_t)c.shape.B * c.shape.H * T, 5);
    c.turned_qv = attn_normals(3 * n, 8);
    c.turned_k = attn_normals(n, 9);
    float *dqv = attn_normals(3 * n, 6), *dk = attn_normals(n, 7);    // set, not added: garbage before
    for (size_t row = 0; row < (size_t)c.shape.B * T; row++) {        // the middle columns are no one's
        memset(dqv + row * c.shape.ldq + c.shape.H * c.shape.D, 0, (size_t)c.shape.H * c.shape.D * sizeof(float));
    }
    gradcheck_swa_loss(&c);
    swa_backward(dqv, dk, dqv + v_at, c.dout, c.out, c.lse, c.turned_qv, c.turned_k, c.turned_qv + v_at, c.rope, c.shape, window, NULL, NULL);
    gradcheck("swa dq and dv", c.qv, dqv, 3 * n, 200, gradcheck_swa_loss, &c);
    gradcheck("swa dk", c.k, dk, n, 100, gradcheck_swa_loss, &c);
    free(c.qv); free(c.k); free(c.dout); free(c.out); free(c.lse); free(c.turned_qv); free(c.turned_k); free(dqv); free(dk);
}

static void gradcheck_swa_turned(int T, int window) {
    float* rope = rope_table(T, 8, 1);
    gradcheck_swa_window(T, window, rope);
    free(rope);
}

TEST(gradcheck_swa_window_1)     { gradcheck_swa_window(5, 1, NULL); }
TEST(gradcheck_swa_window_3)     { gradcheck_swa_window(9, 3, NULL); }
TEST(gradcheck_swa_dense)        { gradcheck_swa_window(9, 9, NULL); }
TEST(gradcheck_swa_rope)         { gradcheck_swa_turned(9, 3); }
TEST(gradcheck_swa_rope_dense)   { gradcheck_swa_turned(9, 9); }
