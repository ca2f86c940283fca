#include "host.h"

#include "abi.h"
#include "error.h"
#include "ggml-cpu.h"
#include "llama.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

namespace ggml_sparse {

// The process has one log callback, so there is one of this: the scopes alive and what they stand in for.
struct host_log {
    std::mutex                    mutex;
    std::vector<host_log_scope *> scopes;
    ggml_log_callback             before      = nullptr;
    void *                        before_data = nullptr;

    static host_log & get() {
        static host_log log;
        return log;
    }

    static void receive(ggml_log_level level, const char * text, void *);
    void        set(ggml_log_callback callback, void * data);
};

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

static void drop(ggml_log_level, const char *, void *) {}

void silence_host() { host_log::get().set(drop, nullptr); }

// Takes effect now, or when the last scope ends.
void host_log::set(ggml_log_callback callback, void * data) {
    std::lock_guard<std::mutex> lock(mutex);
    before      = callback;
    before_data = data;
    if (scopes.empty()) {
        llama_log_set(callback, data); // it also sets ggml's
    }
}

void host_log::receive(ggml_log_level level, const char * text, void *) {
    host_log &                   log = get();
    std::unique_lock<std::mutex> lock(log.mutex);
    const auto                   newest = std::find_if(log.scopes.rbegin(), log.scopes.rend(),
                                                       [](const host_log_scope * s) { return s->owner_ == std::this_thread::get_id(); });
    if (newest != log.scopes.rend()) {
        (*newest)->receive(level, text);
        return;
    }
    const ggml_log_callback callback = log.before;
    void * const            data     = log.before_data;
    lock.unlock(); // the callback may wait for others of our threads
    if (callback) {
        callback(level, text, data);
    }
}

host_log_scope::host_log_scope() {
    host_log &                  log = host_log::get();
    std::lock_guard<std::mutex> lock(log.mutex);
    log.scopes.push_back(this);
    if (log.scopes.size() == 1) {
        llama_log_get(&log.before, &log.before_data);
        llama_log_set(host_log::receive, nullptr);
    }
}

host_log_scope::~host_log_scope() {
    host_log &                  log = host_log::get();
    std::lock_guard<std::mutex> lock(log.mutex);
    log.scopes.erase(std::find(log.scopes.begin(), log.scopes.end(), this));
    if (log.scopes.empty()) {
        llama_log_set(log.before, log.before_data);
    }
}

void host_log_scope::receive(ggml_log_level level, const char * text) {
    level_ = level == GGML_LOG_LEVEL_CONT ? level_ : level;
    if (level_ == GGML_LOG_LEVEL_ERROR) {
        errors_ += text;
    }
}

} // namespace ggml_sparse
