#include "error.h"

#include <cstdio>

namespace ggml_sparse {

template <size_t N> static void put(char (&dst)[N], const std::string & src) { std::snprintf(dst, N, "%s", src.c_str()); }

error::error(ggml_sparse_status status, const std::string & message) {
    data_.status = status;
    put(data_.message, message);
}

error & error::at(const std::string & where) {
    put(data_.where, where);
    return *this;
}

error & error::expected(const std::string & text) {
    put(data_.expected, text);
    return *this;
}

error & error::found(const std::string & text) {
    put(data_.found, text);
    return *this;
}

error & error::counts(int64_t needed, int64_t available) {
    data_.needed    = needed;
    data_.available = available;
    return *this;
}

error format_error(const std::string & file, const std::string & where, const std::string & expected, const std::string & found) {
    error e(GGML_SPARSE_ERR_FORMAT, file + ": " + where + ": expected " + expected + ", found " + found + ".");
    e.at(where).expected(expected).found(found);
    return e;
}

static ggml_sparse_status fill(ggml_sparse_error * err, const error & e) noexcept {
    if (err) {
        *err = e.data();
    }
    return e.data().status;
}

ggml_sparse_status report_current_exception(ggml_sparse_error * err) noexcept {
    try {
        throw;
    } catch (const error & e) {
        return fill(err, e);
    } catch (const std::bad_alloc &) {
        return fill(err, error(GGML_SPARSE_ERR_MEMORY, "Out of memory."));
    } catch (const std::exception & e) {
        return fill(err, error(GGML_SPARSE_ERR_BACKEND, e.what()));
    } catch (...) {
        return fill(err, error(GGML_SPARSE_ERR_BACKEND, "The host library threw an unknown exception."));
    }
}

void require_argument(bool ok, const char * message) {
    if (!ok) {
        throw error(GGML_SPARSE_ERR_ARGUMENT, message);
    }
}

} // namespace ggml_sparse
