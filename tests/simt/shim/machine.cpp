// The pretended machine: what the runtime is asked for, on which card and stream, and what a card would refuse.
#include "core.h"

#include <cstring>

namespace simt {
namespace {

bool is(const Event& event, const char* call) { return std::strcmp(event.call, call) == 0; }
bool waits(const Event& event) { return is(event, "synchronize"); }
bool has_stream(const Event& event) { return is(event, "launch") || is(event, "memset"); }

} // namespace

Machine& machine() {
    static Machine only;
    return only;
}

std::vector<Event>& events() {
    static std::vector<Event> since;
    return since;
}

cudaStream_t stream_of(int card) { return reinterpret_cast<cudaStream_t>(std::uintptr_t{0x5100} + 0x10 * card); }

cudaError_t happen(const Event& event) {
    if (machine().record)
        events().push_back(event);
    if (!is(event, "get"))
        machine().awake[event.card] = true;
    if (machine().capturing && waits(event))
        return cudaErrorStreamCaptureUnsupported;
    if (!has_stream(event) || event.stream == stream_of(event.card))
        return cudaSuccess;
    if (event.stream != nullptr)
        return cudaErrorInvalidResourceHandle;
    return machine().capturing ? cudaErrorStreamCaptureImplicit : cudaSuccess;
}

} // namespace simt
