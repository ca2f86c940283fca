#include "library.h"

#include "abi.h"
#include "backend.h"
#include "error.h"
#include "host.h"
#include "llama.h"
#include "selftest.h"

#include <mutex>
#include <optional>

namespace ggml_sparse {

// The process has one ggml registry, so there is one of this.
struct library_state {
    std::mutex           mutex;
    bool                 ready = false;
    std::optional<error> failure;
};

static library_state & library() {
    static library_state state;
    return state;
}

static bool registered() { return ggml_backend_reg_by_name("SPARSE") != nullptr; }

static void start() {
    check_host();
    llama_backend_init();
    if (!registered()) { // GGML_BACKEND_PATH may have been first
        ggml_backend_register(backend_reg());
    }
    run_selftest();
}

void init_library() {
    library_state &             state = library();
    std::lock_guard<std::mutex> lock(state.mutex);
    if (state.failure) {
        throw *state.failure;
    }
    if (state.ready) {
        return;
    }
    try {
        start();
        state.ready = true;
    } catch (const error & e) {
        state.failure = e;
        throw;
    }
}

} // namespace ggml_sparse

// --- C API ---------------------------------------------------------------------------

const char * ggml_sparse_version(void) noexcept { return GGML_SPARSE_VERSION; }

const char * ggml_sparse_built_for(void) noexcept { return ggml_sparse::abi::host_version; }

const char * ggml_sparse_host_version(void) noexcept { return ggml_version(); }

ggml_sparse_status ggml_sparse_init(ggml_sparse_error * err) noexcept {
    return ggml_sparse::guard(err, [] { ggml_sparse::init_library(); });
}

void ggml_sparse_silence_host(void) noexcept { ggml_sparse::silence_host(); }
