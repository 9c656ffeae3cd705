// Everything that is compiled for each instruction set. It is included inside a namespace, after that set's Vec, so
// these files include nothing but each other and use no inline functions of the standard library, which the linker
// would share between the sets although they were compiled for one of them.
#include "sizes.h"
#include "functions.h"
#include "steps.h"
#include "commit.h"
#include "tiles.h"
#include "copy.h"
#include "taps.h"
#include "conv.h"
#include "depthwise.h"
#include "separable.h"
#include "pool.h"
#include "reduce.h"
#include "enter.h"

extern const Kernels kKernels;
const Kernels kKernels = {kName,     kPanelVecs * Vec::width, Pairs::kThere, convolve, depthwise,
                          separable, pool,                    copy,          reduce,   enter};
