# make                 train_moba (where nvcc is) and train_moba_cpu
# make quickstart      from nothing to a trained tiny model and a sample, no GPU needed
# make test [OP=name]  every test, or those of one op; TEST_JOBS=4 runs four programs side by side
# make tools           the data tools written in C, into build/data (data/README.md)
# make bench [OP=name] the tables of README (GPU)
# make soak            the long forms: 50 kills, 20 of a rank, 10 000 steps, fuzzing for minutes (SEED=1, FUZZ_SECONDS=120)
# make lint            clang-tidy and cppcheck over the C sources
# make sanitize        the CPU tests and training runs under ASan and UBSan, training under valgrind
# make sanitize-gpu [OP=name]  compute-sanitizer's three tools over kernel tests, without OP over three training steps too (GPU)
# make clean           removes what was built; runs/ stays
# make ladder          the MoBA forward in five steps, naive to product (GPU)
# make ncu             ncu's figures of the attention kernels (GPU)
# make help            this text
SHELL   := /bin/bash -o pipefail
CC      ?= cc
NVCC    ?= $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
ARCH    ?= -march=native
B       := build

# several ranks: MPI starts the processes (and is the CPU program's transport), NCCL joins the GPUs; each is used where it is found,
# NCCL_HOME=... names a directory with include/nccl.h and lib/
MPICC   ?= $(shell command -v mpicc)
MPI     := $(if $(MPICC),$(shell $(MPICC) --showme:incdirs >/dev/null 2>&1 && echo yes))
MPI_INC := $(if $(MPI),-DHAS_MPI $(addprefix -I,$(shell $(MPICC) --showme:incdirs)))
MPI_LIB := $(if $(MPI),$(addprefix -L,$(shell $(MPICC) --showme:libdirs)) $(addprefix -l,$(shell $(MPICC) --showme:libs)))
CUDA    := $(patsubst %/bin/nvcc,%,$(realpath $(NVCC)))
NCCL_HOME ?= $(patsubst %/include/nccl.h,%,$(firstword $(wildcard $(CUDA)/include/nccl.h /usr/include/nccl.h /usr/local/include/nccl.h)))
NCCL_SO  = $(firstword $(wildcard $(foreach dir,lib lib64 lib/x86_64-linux-gnu lib/aarch64-linux-gnu,$(NCCL_HOME)/$(dir)/libnccl.so $(NCCL_HOME)/$(dir)/libnccl.so.2)))
NCCL_INC = $(if $(NCCL_SO),-DHAS_NCCL -I$(NCCL_HOME)/include)
NCCL_LIB = $(if $(NCCL_SO),$(NCCL_SO) -Xlinker -rpath=$(dir $(NCCL_SO)))

WARN    := -Wall -Wextra -Werror
CFLAGS  := -std=gnu11 -O3 -g $(WARN) -fno-math-errno -ffp-contract=off -fopenmp -pthread -Illmc $(MPI_INC)
LIBS    := -lz -lm -pthread -fopenmp -Wl,--as-needed $(MPI_LIB)
# sm_90a carries wgmma and TMA; sm_80 is the portable path, its PTX the way to newer GPUs
GENCODE := -gencode arch=compute_90a,code=sm_90a -gencode arch=compute_80,code=[sm_80,compute_80]
NVFLAGS := -std=c++17 -O3 -lineinfo $(GENCODE) -Illmc --threads 2 -Xcompiler -Wall,-Wextra,-Werror,-pthread,-fopenmp $(NCCL_INC)
NVLIBS  := -lcublasLt -lcudart -lz -lm -lpthread -lgomp -Xlinker --as-needed $(NCCL_LIB) $(MPI_LIB)

# an op is llmc/cpu/NAME.c and llmc/NAME.cu; the program around the ops is plain C, the same source for both backends
CPU_OPS  := $(patsubst llmc/cpu/%.c,%,$(wildcard llmc/cpu/*.c))
CUDA_OPS := $(patsubst llmc/%.cu,%,$(wildcard llmc/*.cu))
HOST     := $(patsubst llmc/%.c,%,$(wildcard llmc/*.c))

HEADERS := $(wildcard llmc/*.h llmc/cpu/*.h)
KERNEL_HEADERS := $(HEADERS) $(wildcard llmc/*.cuh)

PROGRAMS := train_moba_cpu $(if $(NVCC),train_moba)
all: $(PROGRAMS)

# ---- objects: cpu, cuda, and the two references that kernel tests link -----------------------------------------------
# (archives, so that a test links only what it names)
CPU_LIB  := $(B)/cpu.a
CUDA_LIB := $(B)/cuda.a
REF_LIB  := $(B)/references.a
$(CPU_LIB):  $(HOST:%=$(B)/cpu/%.o) $(CPU_OPS:%=$(B)/cpu/op_%.o)
$(CUDA_LIB): $(CUDA_OPS:%=$(B)/cuda/op_%.o) $(HOST:%=$(B)/cuda/%.o)
$(REF_LIB):  $(patsubst %,$(B)/ref/op_%.o,$(filter-out device comm,$(CPU_OPS))) $(patsubst %,$(B)/rnd/op_%.o,$(filter-out device comm,$(CPU_OPS)))
%.a:
	@rm -f $@
	$(AR) rcs $@ $^

$(B)/cpu/%.o: llmc/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -c -o $@ $<
$(B)/cpu/op_%.o: llmc/cpu/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -c -o $@ $<
$(B)/cuda/%.o: llmc/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@ $<
$(B)/cuda/op_%.o: llmc/%.cu $(KERNEL_HEADERS) | nvcc
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -c -o $@ $<
nvcc:
	@[ -n "$(NVCC)" ] || { echo "error: the CUDA program needs nvcc, which is neither on PATH nor in /usr/local/cuda/bin; NVCC=... names one" >&2; exit 69; }
# rounded twin and fp64 twin of the whole CPU program (tests only)
$(B)/rounded/%.o: llmc/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_ROUND -c -o $@ $<
$(B)/rounded/op_%.o: llmc/cpu/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_ROUND -c -o $@ $<
$(B)/f64/%.o: llmc/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_F64 -c -o $@ $<
$(B)/f64/op_%.o: llmc/cpu/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_F64 -c -o $@ $<
# the references: names prefixed, so that they stand beside the kernels in one program
$(B)/gen/%_names.h: llmc/ops.h
	@mkdir -p $(@D)
	sed -nE 's/^(void|int|size_t|const char\*|struct MatmulPlans\*) ([a-z0-9_]+)\(.*/#define \2 $*_\2/p' $< > $@
$(B)/gen/ops_unname.h: llmc/ops.h
	@mkdir -p $(@D)
	sed -nE 's/^(void|int|size_t|const char\*|struct MatmulPlans\*) ([a-z0-9_]+)\(.*/#undef \2/p' $< > $@
$(B)/ref/op_%.o: llmc/cpu/%.c $(HEADERS) $(B)/gen/ref_names.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -include $(B)/gen/ref_names.h -c -o $@ $<
$(B)/rnd/op_%.o: llmc/cpu/%.c $(HEADERS) $(B)/gen/rnd_names.h
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_ROUND -include $(B)/gen/rnd_names.h -c -o $@ $<

# the commit that config.json and the log name; rewritten only when it changes
$(B)/gen/commit.h: FORCE
	@mkdir -p $(@D)
	@echo '#define COMMIT "$(shell git describe --always --dirty 2>/dev/null || echo unknown)"' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
# MPI or NCCL was installed, or went away: what asks for them is compiled anew
$(B)/gen/ranks_flags: FORCE
	@mkdir -p $(@D)
	@echo '$(MPI_INC) $(NCCL_INC)' > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@
$(foreach dir,cpu cuda,$(B)/$(dir)/mpi.o $(B)/$(dir)/op_comm.o): $(B)/gen/ranks_flags
FORCE:

# ---- programs ---------------------------------------------------------------------------------------------------------
train_moba_cpu: train_moba.cu $(B)/gen/commit.h $(CPU_LIB)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -I$(B)/gen -x c -o $@ $< -x none $(CPU_LIB) $(LIBS)
# the same with hooks that only tests pull (test/test_trainer.sh)
$(B)/test/hooks/train_moba_cpu: train_moba.cu test/faults.h $(B)/gen/commit.h $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_TEST -I$(B)/gen -Itest -x c -o $@ $< -x none $(CPU_LIB) $(LIBS)
train_moba: train_moba.cu $(B)/gen/commit.h $(CUDA_LIB)
	$(NVCC) $(NVFLAGS) -I$(B)/gen -o $@ $< $(CUDA_LIB) $(NVLIBS)
$(B)/test/hooks/train_moba: train_moba.cu test/faults.h $(B)/gen/commit.h $(CUDA_LIB)
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -DLLMC_TEST -I$(B)/gen -Itest -o $@ $< $(CUDA_LIB) $(NVLIBS)
# for initcheck: the linker puts a wrapper before the library's products that writes their outputs (test/written_products.cu)
$(B)/test/written/train_moba: train_moba.cu test/written_products.cu $(B)/gen/commit.h $(CUDA_LIB)
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -I$(B)/gen -Xlinker --wrap=cublasLtMatmul -o $@ $< test/written_products.cu $(CUDA_LIB) $(NVLIBS)

# ---- data tools: data/NAME.c -> build/data/NAME ------------------------------------------------------------------------
DATA_TOOLS := $(patsubst data/%.c,$(B)/data/%,$(wildcard data/*.c))
tools: $(DATA_TOOLS)
$(B)/data/%: data/%.c data/tool.h $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -o $@ $< $(CPU_LIB) $(LIBS)


# ---- tests ------------------------------------------------------------------------------------------------------------
GEN := $(B)/gen/ref_names.h $(B)/gen/rnd_names.h $(B)/gen/ops_unname.h
# an op's own test: without a GPU the CPU op alone; with one the kernels beside both references
$(B)/test/cpu/test_%: test/test_%.cu $(wildcard test/*.h) $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -Itest -x c -o $@ $< -x none $(CPU_LIB) $(LIBS)
$(B)/test/cuda/test_%: test/test_%.cu $(wildcard test/*.h) $(GEN) $(CUDA_LIB) $(REF_LIB)
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -Itest -I$(B)/gen -o $@ $< $(CUDA_LIB) $(REF_LIB) $(NVLIBS)
$(B)/test/cuda/test_written_products: test/written_products.cu
$(B)/test/cpu/test_%: test/test_%.c $(wildcard test/*.h) $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -Itest -o $@ $< $(CPU_LIB) $(LIBS)
# every CPU backward against finite differences; a file in test/gradcheck is in the program by being there
GRADCHECKS := $(filter-out %/gradcheck.h,$(wildcard test/gradcheck/*.h))
$(B)/gen/gradcheck_cases.h: $(GRADCHECKS) Makefile
	@mkdir -p $(@D)
	printf '#include "%s"\n' $(GRADCHECKS:test/%=%) > $@
$(B)/test/cpu/test_gradcheck: test/test_gradcheck.c test/test.h test/gradcheck/gradcheck.h $(B)/gen/gradcheck_cases.h \
		$(B)/f64/common.o $(patsubst %,$(B)/f64/op_%.o,$(filter-out comm,$(CPU_OPS)))
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_F64 -Itest -I$(B)/gen -o $@ $(filter %.c %.o,$^) $(LIBS)

# one step of the whole model written out, and its generation, in three builds, and what holds the dumps against each other
# (test/test_model.sh, dev/torch_check.py); the linker puts a wrapper that sees, and may replace, the picked blocks before what picks them
ROUNDED_LIB := $(B)/rounded.a
$(ROUNDED_LIB): $(HOST:%=$(B)/rounded/%.o) $(CPU_OPS:%=$(B)/rounded/op_%.o)
MODEL_DUMPS := $(foreach what,dump generate,$(addprefix $(B)/model/$(what)_,cpu rounded $(if $(and $(HAS_GPU),$(NVCC)),cuda))) \
               $(B)/model/compare $(B)/model/compare_generated
DUMPS_H := test/model/dumps.h $(HEADERS)
COMMA   := ,
WRAPS   := --wrap=moba_topk
$(B)/model/generate_%: WRAPS += --wrap=attn_step_topk
$(B)/model/%_cpu: test/model/%.c $(DUMPS_H) $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU $(addprefix -Wl$(COMMA),$(WRAPS)) -o $@ $< $(CPU_LIB) $(LIBS)
$(B)/model/%_rounded: test/model/%.c $(DUMPS_H) $(ROUNDED_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -DLLMC_ROUND $(addprefix -Wl$(COMMA),$(WRAPS)) -o $@ $< $(ROUNDED_LIB) $(LIBS)
$(B)/model/%_cuda: test/model/%.c $(DUMPS_H) $(CUDA_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) -c -o $@.o $<
	$(NVCC) $(NVFLAGS) $(addprefix -Xlinker ,$(WRAPS)) -o $@ $@.o $(CUDA_LIB) $(NVLIBS)
$(B)/model/%: test/model/%.c $(DUMPS_H) $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -o $@ $< $(CPU_LIB) $(LIBS)
model-dumps: $(MODEL_DUMPS)

# fuzzers of everything that reads what others wrote (test/test_fuzz.sh), where clang is
FUZZ_SOURCES := common json launch pattern config config_print shard checkpoint checkpoint_format checkpoint_read logger tokenizer
FUZZERS      := $(patsubst test/fuzz/%.c,$(B)/fuzz/%,$(filter-out %/seeds.c,$(wildcard test/fuzz/*.c)))
FUZZ_CC      := clang -std=gnu11 -O1 -g -Wall -Wextra -Werror -DLLMC_CPU -Illmc -fsanitize=address,undefined -fno-sanitize-recover=all
$(B)/fuzz/%.o: llmc/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(FUZZ_CC) -fsanitize=fuzzer-no-link -c -o $@ $<
$(B)/fuzz/%: test/fuzz/%.c $(FUZZ_SOURCES:%=$(B)/fuzz/%.o)
	$(FUZZ_CC) -fsanitize=fuzzer -o $@ $^ -lz -lm
$(B)/fuzz/seeds: test/fuzz/seeds.c $(FUZZ_SOURCES:%=$(B)/fuzz/%.o)
	$(FUZZ_CC) -o $@ $^ -lz -lm
fuzzers: $(FUZZERS) $(B)/fuzz/seeds

# gradients on many ranks against those of one (test/test_ranks.sh)
$(B)/test/gradients: test/ranks/gradients.c $(HEADERS) $(CPU_LIB)
	@mkdir -p $(@D)
	$(CC) $(CFLAGS) $(ARCH) -DLLMC_CPU -o $@ $< $(CPU_LIB) $(LIBS)

# ---- benchmarks (GPU) -------------------------------------------------------------------------------------------------
$(B)/bench/%: dev/cuda/%.cu dev/cuda/bench.h $(CUDA_LIB)
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -Idev/cuda -o $@ $< $(CUDA_LIB) $(NVLIBS)

# whole steps taken apart: the linker puts a wrapper with a clock in the place of every op (dev/cuda/step_ops.h)
$(B)/bench/step: NVLIBS += -ldl $(shell sed -n 's/^WRAP[_A-Z]*.\([a-z0-9_]*\),.*/-Xlinker --wrap=\1/p' dev/cuda/step_ops.h)
$(B)/bench/step: dev/cuda/step_ops.h dev/cuda/step_trace.h

BENCHMARKS := $(patsubst dev/cuda/%.cu,$(B)/bench/%,$(if $(OP),dev/cuda/$(OP).cu,$(wildcard dev/cuda/*.cu)))
benchmarks: $(BENCHMARKS)
bench:
	@[ -n "$(HAS_GPU)" ] || { echo "error: make bench needs a GPU, and nvidia-smi shows none" >&2; exit 70; }
	@$(MAKE) --no-print-directory bench-built OP=$(OP)
bench-built: $(BENCHMARKS)
	@mkdir -p dev/results
	@for program in $^; do echo "# $$(basename $$program)"; $$program | tee dev/results/$$(basename $$program).jsonl || exit 1; done

# the MoBA forward from naive to product, a step a file (dev/cuda/moba_ladder/README.md)
LADDER := $(patsubst dev/cuda/moba_ladder/%.cu,$(B)/ladder/%,$(sort $(wildcard dev/cuda/moba_ladder/*.cu)))
$(B)/ladder/%: dev/cuda/moba_ladder/%.cu $(wildcard dev/cuda/moba_ladder/*.h dev/cuda/moba_ladder/*.cuh) dev/cuda/bench.h $(CUDA_LIB)
	@mkdir -p $(@D)
	$(NVCC) $(NVFLAGS) -Idev/cuda -o $@ $< $(CUDA_LIB) $(NVLIBS)
ladder: $(LADDER)
	@[ -n "$(HAS_GPU)" ] || { echo "error: make ladder needs a GPU, and nvidia-smi shows none" >&2; exit 70; }
	@dev/cuda/moba_ladder/run.sh $^

# ---- everything that proves the tree ------------------------------------------------------------------------------------
OP_TESTS    := $(patsubst test/%.cu,%,$(wildcard test/test_*.cu))
PLAIN_TESTS := $(patsubst test/%.c,%,$(wildcard test/test_*.c))
SCRIPTS     := $(wildcard test/test_*.sh test/test_*.py) dev/torch_check.py
TEST_PROGRAMS := $(OP_TESTS:%=$(B)/test/cpu/%) $(PLAIN_TESTS:%=$(B)/test/cpu/%) $(if $(HAS_GPU),$(OP_TESTS:%=$(B)/test/cuda/%))
ifdef OP
TEST_PROGRAMS := $(filter %/test_$(OP),$(TEST_PROGRAMS))
SCRIPTS       :=
endif
test:
	@[ -n "$(TEST_PROGRAMS)" ] || { echo "error: OP=$(OP): there is no test/test_$(OP).cu and no test/test_$(OP).c" >&2; exit 64; }
	@scripts/setup.sh $(if $(OP),,test)
	@$(MAKE) --no-print-directory -j $$(nproc) test-built OP=$(OP)
test-built: $(TEST_PROGRAMS) $(if $(OP),,train_moba_cpu $(B)/test/hooks/train_moba_cpu $(B)/test/gradients $(if $(HAS_GPU),train_moba $(B)/test/hooks/train_moba) $(DATA_TOOLS) $(MODEL_DUMPS))
	@test/run.sh $(if $(HAS_GPU),,--skip-gpu-cases-of $(wildcard test/test_$(or $(OP),*).cu)) \
		$(if $(and $(HAS_GPU),$(if $(OP),,all)),--record dev/results/gpu-tests.json) -- $(TEST_PROGRAMS) $(SCRIPTS)

# that these compile is a test too, where nvcc is (test/test_build.sh)
cuda-tests: $(OP_TESTS:%=$(B)/test/cuda/%) $(B)/model/dump_cuda $(B)/model/generate_cuda

# a hash over everything the CUDA program is compiled from; dev/results/gpu-tests.json names the one it proved
source-hash:
	@cat $(sort $(wildcard llmc/*.c llmc/*.h llmc/*.cu llmc/*.cuh) train_moba.cu Makefile) | sha256sum | cut -c1-16

# ---- the long forms, and other eyes on the sources ------------------------------------------------------------------------
SEED ?= 1
FUZZ_SECONDS ?= 120
soak: train_moba_cpu $(B)/test/hooks/train_moba_cpu $(B)/test/gradients $(B)/model/compare $(DATA_TOOLS)
	test/test_survive.py --soak --seed $(SEED)
	KILLS=20 SEED=$(SEED) test/test_ranks.sh
	SECONDS_EACH=$(FUZZ_SECONDS) SEED=$(SEED) test/test_fuzz.sh

LINTED := $(wildcard llmc/*.c llmc/cpu/*.c data/*.c)
# (invalidFunctionArg: it takes loops over a vocabulary for loops that may not run, and their sums for 0; arrayIndexThenCheck: it takes
# the second half of a comparison for a bounds check)
LINT_FLAGS := -std=gnu11 -DLLMC_CPU -Illmc -I$(B)/gen
lint: $(B)/gen/commit.h
	clang-tidy --quiet $(LINTED) -- $(LINT_FLAGS)
	clang-tidy --quiet train_moba.cu -- -x c $(LINT_FLAGS)
	cppcheck --enable=warning,performance,portability --inline-suppr --suppress=invalidFunctionArg --suppress=arrayIndexThenCheck --std=c11 --quiet --error-exitcode=1 -DLLMC_CPU -Illmc -I$(B)/gen $(LINTED)

# (the tests at length, rows of 64K to a million tokens, take an hour under sanitizers, on code that test_swa, test_moba_attn and
# test_moba_index run too)
AT_LENGTH      := %/test_moba_large %/test_swa_large
SANITIZE_FLAGS := -std=gnu11 -O1 -g $(WARN) -fno-omit-frame-pointer -fno-math-errno -ffp-contract=off -fopenmp -pthread -Illmc
SANITIZED      := $(filter-out $(AT_LENGTH),$(OP_TESTS:%=$(B)/sanitize/test/cpu/%) $(PLAIN_TESTS:%=$(B)/sanitize/test/cpu/%))
sanitize:
	$(MAKE) --no-print-directory B=$(B)/sanitize CFLAGS="$(SANITIZE_FLAGS) -fsanitize=address,undefined -fno-sanitize-recover=all" \
		ARCH= $(SANITIZED) $(B)/sanitize/test/hooks/train_moba_cpu $(B)/sanitize/data/bytes
	$(MAKE) --no-print-directory B=$(B)/valgrind ARCH= CFLAGS="$(SANITIZE_FLAGS)" $(B)/valgrind/test/hooks/train_moba_cpu
	test/sanitize.sh $(B) $(SANITIZED)

GPU_SANITIZED := $(filter-out $(AT_LENGTH),$(OP_TESTS:%=$(B)/test/cuda/%))
ifdef OP
GPU_SANITIZED := $(OP:%=$(B)/test/cuda/test_%)
endif
sanitize-gpu: $(if $(OP),,train_moba $(B)/test/written/train_moba $(B)/data/bytes) $(GPU_SANITIZED)
	test/sanitize_gpu.sh $(if $(OP),-,./train_moba) $(GPU_SANITIZED)

# ncu's figures of the attention kernels, Hopper's and the portable ones
ncu: $(B)/bench/moba_pipeline
	@[ -n "$(HAS_GPU)" ] || { echo "error: make ncu needs a GPU, and nvidia-smi shows none" >&2; exit 70; }
	@dev/ncu_attention.py

quickstart:
	@scripts/quickstart.sh

clean:
	rm -rf $(B) train_moba train_moba_cpu
help:
	@sed -n '1,/^CC/p' Makefile | grep '^#' | sed 's/^# //'

.PHONY: fuzzers soak lint sanitize sanitize-gpu ncu FORCE all clean help tools nvcc test test-built cuda-tests quickstart bench bench-built ladder benchmarks source-hash model-dumps
.SECONDARY:
