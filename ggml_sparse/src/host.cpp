#include "host.h"

#include "abi.h"
#include "error.h"
#include "ggml-cpu.h"
#include "llama.h"

#include <cstring>
#include <mutex>

namespace ggml_sparse {

static std::mutex & log_mutex() {
    static std::mutex m;
    return m;
}

static void check_version() {
    if (std::strcmp(ggml_version(), abi::host_version) == 0) {
        return;
    }
    error e(GGML_SPARSE_ERR_HOST, std::string("turbosparse is built for ggml ") + abi::host_version + " but the process has ggml " +
                                      ggml_version() + ". Install the pinned host: pip install llama-cpp-python==0.3.36");
    throw e.at("ggml").expected(abi::host_version).found(ggml_version());
}

// libggml-cpu is compiled for one machine; on a lesser one it would die of SIGILL.
static void check_cpu() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const struct {
        const char * name;
        bool         built, has;
    } features[] = {
        {"AVX", ggml_cpu_has_avx() != 0, __builtin_cpu_supports("avx") != 0},
        {"AVX2", ggml_cpu_has_avx2() != 0, __builtin_cpu_supports("avx2") != 0},
        {"FMA", ggml_cpu_has_fma() != 0, __builtin_cpu_supports("fma") != 0},
        {"AVX-512", ggml_cpu_has_avx512() != 0, __builtin_cpu_supports("avx512f") != 0},
        {"AVX-512 VBMI", ggml_cpu_has_avx512_vbmi() != 0, __builtin_cpu_supports("avx512vbmi") != 0},
        {"AVX-512 VNNI", ggml_cpu_has_avx512_vnni() != 0, __builtin_cpu_supports("avx512vnni") != 0},
        {"AVX-512 BF16", ggml_cpu_has_avx512_bf16() != 0, __builtin_cpu_supports("avx512bf16") != 0},
    };
    for (const auto & f : features) {
        if (f.built && !f.has) {
            error e(GGML_SPARSE_ERR_HOST, std::string("The installed llama.cpp was compiled for a CPU with ") + f.name +
                                              ", which this one lacks. Rebuild it here: pip install --force-reinstall --no-cache-dir "
                                              "--no-deps llama-cpp-python==0.3.36");
            throw e.at("libggml-cpu").expected(std::string("no ") + f.name).found(f.name);
        }
    }
#endif
}

void check_host() {
    check_version();
    check_cpu();
}

void silence_host() {
    std::lock_guard<std::mutex> lock(log_mutex());
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
}

// llama_log_set also sets ggml's callback; both are restored together.
host_log_scope::host_log_scope() {
    log_mutex().lock();
    llama_log_get(&callback_, &data_);
    llama_log_set(receive, this);
}

host_log_scope::~host_log_scope() {
    llama_log_set(callback_, data_);
    log_mutex().unlock();
}

void host_log_scope::receive(ggml_log_level level, const char * text, void * self) {
    auto & scope = *static_cast<host_log_scope *>(self);
    if (std::this_thread::get_id() != scope.owner_) {
        scope.callback_(level, text, scope.data_);
        return;
    }
    scope.level_ = level == GGML_LOG_LEVEL_CONT ? scope.level_ : level;
    if (scope.level_ == GGML_LOG_LEVEL_ERROR) {
        scope.errors_ += text;
    }
}

} // namespace ggml_sparse
