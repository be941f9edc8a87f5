// Stands in for the CUDA toolkit's header, whose operators a host compiler does not need; nccl.h asks for it.
#pragma once
