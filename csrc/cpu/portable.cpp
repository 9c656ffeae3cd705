// The kernels in plain C++, for every processor.
#include "kernels.h"

namespace deltafx::cpu::portable {
#include "vec_portable.h"
constexpr int kTileRows = 4, kPanelVecs = 1;
constexpr const char* kName = "portable";
#include "all_kernels.h"
}  // namespace deltafx::cpu::portable
