// moba_attn_backward against finite differences of sum(dout * moba_attn_forward), the routing held constant.
#include "attn_case.h"

typedef struct {
    AttnShape shape;
    PickedRoute route;
    float *qv, *k, *dout, *out, *lse;    // q at column 0 and v at column 2*H*D of qv
} MobaCase;

static double gradcheck_moba_attn_loss(void* context) {
    MobaCase* c = (MobaCase*)context;
    size_t n = (size_t)c->shape.B * c->shape.T * c->shape.ldo;
    moba_attn_forward(c->out, c->lse, c->qv, c->k, c->qv + 2 * c->shape.H * c->shape.D, picked_view(&c->route), c->shape,
                      c->route.block, c->route.topk, NULL, 0, NULL);
    double sum = 0;
    for (size_t i = 0; i < n; i++) { sum += c->dout[i] * c->out[i]; }
    return sum;
}

static void gradcheck_moba_attn_case(int T, int block, int topk, PickKind kind) {
    MobaCase c = {attn_shape(2, T, 2, 8), picked_route(2, 2, T, block, topk, kind, 9), NULL, NULL, NULL, NULL, NULL};
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
    gradcheck_moba_attn_loss(&c);
    moba_attn_backward(dqv, dk, dqv + v_at, c.dout, c.out, c.lse, c.qv, c.k, c.qv + v_at, picked_view(&c.route), c.shape,
                       block, topk, NULL, 0, NULL);
    gradcheck("moba_attn dq and dv", c.qv, dqv, 3 * n, 200, gradcheck_moba_attn_loss, &c);
    gradcheck("moba_attn dk", c.k, dk, n, 100, gradcheck_moba_attn_loss, &c);
    picked_free(&c.route);
    free(c.qv); free(c.k); free(c.dout); free(c.out); free(c.lse); free(dqv); free(dk);
}

TEST(gradcheck_moba_attn_own_block_only) { gradcheck_moba_attn_case(11, 4, 1, PICK_RANDOM); }
TEST(gradcheck_moba_attn_random_blocks)  { gradcheck_moba_attn_case(19, 4, 3, PICK_RANDOM); }
TEST(gradcheck_moba_attn_sparse_blocks)  { gradcheck_moba_attn_case(19, 4, 4, PICK_SPARSE); }
