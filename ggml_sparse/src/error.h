#pragma once

// Inside the library failures are exceptions that carry a ggml_sparse_error; at the C
// boundary guard() turns them, and whatever libllama throws, into a status.

#include "ggml-sparse.h"

#include <exception>
#include <new>
#include <string>

namespace ggml_sparse {

class error : public std::exception {
  public:
    error(ggml_sparse_status status, const std::string & message);

    // Data behind the sentence; each returns *this so that a throw stays one expression.
    error & at(const std::string & where);
    error & expected(const std::string & text);
    error & found(const std::string & text);
    error & counts(int64_t needed, int64_t available);

    const char *              what() const noexcept override { return data_.message; }
    const ggml_sparse_error & data() const noexcept { return data_; }

  private:
    ggml_sparse_error data_{};
};

// "FILE: WHERE: expected E, found F." as one format error.
error format_error(const std::string & file, const std::string & where, const std::string & expected, const std::string & found);

// Fill *err (may be NULL) from the exception in flight and return its status.
ggml_sparse_status report_current_exception(ggml_sparse_error * err) noexcept;

template <typename F> ggml_sparse_status guard(ggml_sparse_error * err, F && body) noexcept {
    try {
        body();
        if (err) {
            *err = ggml_sparse_error{};
        }
        return GGML_SPARSE_OK;
    } catch (...) {
        return report_current_exception(err);
    }
}

// For parameters: throws ERR_ARGUMENT with `message` unless `ok`.
void require_argument(bool ok, const char * message);

} // namespace ggml_sparse
