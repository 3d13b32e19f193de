#include "step.h"

#include <time.h>

double clock_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

Stepper stepper_open(Model* model, Optimizer* opt, DataLoader* loader, Reduction* reduction, int rows, int T, int64_t batch_tokens) {
    Stepper s;
    memset(&s, 0, sizeof s);
    s.model = model;
    s.opt = opt;
    s.loader = loader;
    s.reduction = reduction;
    s.rows = rows;
    s.T = T;
    s.batch_tokens = batch_tokens;
    for (int i = 0; i < STEPS_AHEAD; i++) {
        s.slot[i].outcome = (UpdateDecision*)pinned_malloc(sizeof(UpdateDecision));
        s.slot[i].begun = event_open();
        s.slot[i].done = event_open();
    }
    s.begun = event_open();
    return s;
}

void stepper_close(Stepper* s) {
    for (int i = 0; i < STEPS_AHEAD; i++) {
        pinned_free(s->slot[i].outcome);
        event_close(s->slot[i].begun);
        event_close(s->slot[i].done);
    }
    event_close(s->begun);
}

bool stepper_gradients(Stepper* s, Error* err) {
    Model* m = s->model;
    float scale = (float)(1.0 / (double)s->batch_tokens);
    event_record(s->begun, m->stream);
    model_zero(m);
    int64_t tokens = (int64_t)s->rows * s->T, share = s->batch_tokens / s->opt->partition.world;
    for (int64_t token = 0; token < share; token += tokens) {
        const int *inputs, *targets;
        double asked = clock_ms();
        if (!loader_next(s->loader, &inputs, &targets, err)) { return false; }
        s->loader_ms += clock_ms() - asked;
        model_batch(m, inputs, targets, s->rows, s->T);
        if (token + tokens >= share) { reduction_begin(s->reduction); }
        model_forward_backward(m, scale);
    }
    return true;
}

void stepper_update(Stepper* s, int64_t step, const AdamWSettings* settings) {
    REQUIRE(s->under_way < STEPS_AHEAD, "step %lld begun while %d are under way", (long long)step, s->under_way);
    StepSlot* slot = &s->slot[step % STEPS_AHEAD];
    reduction_end(s->reduction);
    optimizer_norm(s->opt, s->model);
    optimizer_update(s->opt, s->model, settings);
    device_download(slot->outcome, s->opt->decision, sizeof *slot->outcome, s->model->stream);
    event_record(slot->done, s->model->stream);
    slot->step = s->newest = step;
    slot->lr = settings->lr;
    DeviceEvent* begun = s->begun;
    s->begun = slot->begun;
    slot->begun = begun;
    s->under_way++;
}

StepOutcome stepper_wait(Stepper* s) {
    REQUIRE(s->under_way > 0, "no step is under way");
    const StepSlot* slot = &s->slot[(s->newest - s->under_way + 1) % STEPS_AHEAD];
    event_wait(slot->done);
    StepOutcome o = {slot->step, slot->outcome->apply != 0, slot->outcome->total / (double)s->batch_tokens, slot->outcome->norm, slot->lr,
                     (double)event_ms(slot->begun, slot->done)};
    s->opt->updates = slot->outcome->updates;
    s->steps_ms += o.ms;
    s->under_way--;
    return o;
}
