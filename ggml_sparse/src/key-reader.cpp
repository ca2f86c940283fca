#include "key-reader.h"

#include "error.h"

#include <cmath>

namespace ggml_sparse {

void key_reader::fail(const std::string & where, const std::string & expected, const std::string & found) const {
    throw format_error(file_.path(), where, expected, found);
}

void key_reader::unsupported(const std::string & where, const std::string & expected, const std::string & found) const {
    error e(GGML_SPARSE_ERR_UNSUPPORTED,
            file_.path() + ": " + where + ": this version of turbosparse reads " + expected + ", found " + found + ".");
    throw e.at(where).expected(expected).found(found);
}

const gguf_value * key_reader::key(const std::string & name) {
    known_.insert(name);
    return file_.find_key(name);
}

const gguf_value & key_reader::required_key(const std::string & name, const std::string & expected) {
    const gguf_value * v = key(name);
    if (!v) {
        fail(name, expected, "no such key");
    }
    return *v;
}

std::string key_reader::string_key(const std::string & name, const char * fallback) {
    const gguf_value * v = key(name);
    if (!v && fallback) {
        return fallback;
    }
    if (!v || v->is_array || v->type != GGUF_TYPE_STRING) {
        fail(name, "a string", v ? v->type_name() : "no such key");
    }
    return std::string(v->strings[0]);
}

int64_t key_reader::integer_key(const std::string & name, int64_t min, int64_t max) {
    const std::string  expected = "an integer from " + std::to_string(min) + " to " + std::to_string(max);
    const gguf_value & v        = required_key(name, expected);
    if (v.is_array || !v.is_integer()) {
        fail(name, expected, v.type_name());
    }
    if (v.integer() < min || v.integer() > max) {
        fail(name, expected, v.text());
    }
    return v.integer();
}

int64_t key_reader::optional_integer(const std::string & name, int64_t min, int64_t max, int64_t fallback) {
    return key(name) ? integer_key(name, min, max) : fallback;
}

double key_reader::positive_key(const std::string & name) {
    const gguf_value & v = required_key(name, "a positive number");
    if (v.is_array || !v.is_number() || !std::isfinite(v.number()) || v.number() <= 0) {
        fail(name, "a positive number", v.is_array || !v.is_number() ? v.type_name() : v.text());
    }
    return v.number();
}

const gguf_value * key_reader::number_array(const std::string & name, int64_t count, bool integers) {
    const gguf_value * v        = key(name);
    const std::string  expected = std::string("an array of ") + std::to_string(count) + (integers ? " integers" : " numbers");
    if (v && (!v->is_array || !v->is_number() || (integers && !v->is_integer()))) {
        fail(name, expected, v->type_name());
    }
    if (v && v->count != uint64_t(count)) {
        fail(name, expected, std::to_string(v->count) + " elements");
    }
    return v;
}

} // namespace ggml_sparse
