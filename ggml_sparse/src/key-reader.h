#pragma once

// Keys of a GGUF file read with their expected type and range; whatever else is there is a
// typed error. Remembers which keys were asked for, so that unknown ones can be reported.

#include "gguf-file.h"

#include <string>
#include <unordered_set>

namespace ggml_sparse {

class key_reader {
  public:
    explicit key_reader(const gguf_file & file) : file_(file) {}

    // The two ways to refuse: the file breaks the contract; or it is sound but beyond this version.
    [[noreturn]] void fail(const std::string & where, const std::string & expected, const std::string & found) const;
    [[noreturn]] void unsupported(const std::string & where, const std::string & expected, const std::string & found) const;

    // Null when there is no such key.
    const gguf_value * key(const std::string & name);
    const gguf_value & required_key(const std::string & name, const std::string & expected);

    // fallback null: the key is required.
    std::string string_key(const std::string & name, const char * fallback);
    int64_t     integer_key(const std::string & name, int64_t min, int64_t max);
    int64_t     optional_integer(const std::string & name, int64_t min, int64_t max, int64_t fallback);
    double      positive_key(const std::string & name);

    // An array of `count` numbers, or null when the key is absent.
    const gguf_value * number_array(const std::string & name, int64_t count, bool integers);

    const gguf_file & file() const { return file_; }
    bool              was_asked(const std::string & name) const { return known_.count(name) != 0; }

  private:
    const gguf_file &               file_;
    std::unordered_set<std::string> known_;
};

} // namespace ggml_sparse
