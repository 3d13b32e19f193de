// Every CPU backward against finite differences, in double (-DLLMC_F64). The cases of op X are in gradcheck/X.h;
// gradcheck_cases.h, which includes them all, is generated from that folder's listing.
#include "test.h"

#include "ops.h"

#include "gradcheck/gradcheck.h"
#include "gradcheck_cases.h"

TEST_MAIN()
