// Level 5: what is printed before a run: the network, its parameters, its memory, its arithmetic.
#ifndef REPORT_H
#define REPORT_H

#include "comm.h"
#include "config.h"
#include "device.h"
#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

void report_model(const Model* m);                                    // one line: sizes, pattern, parameters
void report_parameters(const Model* m);                               // table by field
void report_flops(const Config* cfg, const Model* m);                 // a token, a step, the run
void report_communication(CommTimes times);                            // a step's, and what of it was hidden; nothing for one rank
void report_device(const Device* device);

#ifdef __cplusplus
}
#endif
#endif
