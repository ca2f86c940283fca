#pragma once

// The host libraries: are they the ones we were built for, and what did they say?

#include "ggml.h"

#include <string>
#include <thread>

namespace ggml_sparse {

// Throws ERR_HOST when ggml has another version, or was compiled for another CPU.
void check_host();

// Drop everything the host logs, from now on: for programs that own their process.
void silence_host();

// While alive, keeps the lines that the host writes on this thread off stderr and collects its
// errors for our message; lines of other threads pass through. With the last scope of the
// process the callback that was set before the first is back.
class host_log_scope {
  public:
    host_log_scope();
    ~host_log_scope();
    host_log_scope(const host_log_scope &)             = delete;
    host_log_scope & operator=(const host_log_scope &) = delete;

    const std::string & errors() const { return errors_; }

  private:
    friend struct host_log;
    void receive(ggml_log_level level, const char * text);

    std::thread::id owner_ = std::this_thread::get_id();
    ggml_log_level  level_ = GGML_LOG_LEVEL_NONE;
    std::string     errors_;
};

} // namespace ggml_sparse
