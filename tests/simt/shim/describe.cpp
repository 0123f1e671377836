// Turns a code address into source lines with addr2line.
#include "core.h"

#include <dlfcn.h>

#include <cstdio>
#include <map>

namespace simt {
namespace {

std::string base_name(const std::string& path) {
    std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? path : path.substr(slash + 1);
}

// "affine_coupling.cu:41" or, for a helper inlined there, "device.cuh:52 < affine_coupling.cu:41"
std::string resolve(const void* pc) {
    Dl_info info;
    if (!dladdr(pc, &info))
        return "an unknown place";
    char command[4096];
    auto offset = reinterpret_cast<std::uintptr_t>(pc) - reinterpret_cast<std::uintptr_t>(info.dli_fbase) - 1;
    std::snprintf(command, sizeof command, "addr2line -i -e '%s' 0x%lx", info.dli_fname,
                  static_cast<unsigned long>(offset));
    std::string text;
    char line[2048];
    if (FILE* pipe = popen(command, "r")) {
        while (std::fgets(line, sizeof line, pipe)) {
            std::string place = line;
            place = base_name(place.substr(0, place.find_first_of(" \n")));
            if (place.rfind("cuda_shim", 0) != 0 && place.rfind("?", 0) != 0)
                text += (text.empty() ? "" : " < ") + place;
        }
        pclose(pipe);
    }
    return text.empty() ? "an unknown place" : text;
}

} // namespace

std::string describe(Where where) {
    if (!where.bits)
        return "an unknown place";
    std::uint64_t line = where.bits >> 47;
    if (line)
        return base_name(reinterpret_cast<const char*>(where.bits & ((1ull << 47) - 1))) + ":" + std::to_string(line);
    static std::map<std::uint64_t, std::string> known;
    auto found = known.find(where.bits);
    if (found == known.end())
        found = known.emplace(where.bits, resolve(reinterpret_cast<const void*>(where.bits))).first;
    return found->second;
}

} // namespace simt
