#include "emu.h"
void emu_touch(const void*, size_t, bool) {}
