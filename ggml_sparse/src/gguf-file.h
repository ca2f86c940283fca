#pragma once

// A GGUF v3 file, mapped read-only and checked before anything is believed: every
// length is compared with the bytes that are left, every tensor with the end of the
// file. Knows the container only; what the keys mean is contract.h's business.

#include "ggml.h"
#include "gguf.h"
#include "mapped-file.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ggml_sparse {

struct gguf_value {
    gguf_type                     type     = GGUF_TYPE_COUNT; // of the elements, for an array
    bool                          is_array = false;
    uint64_t                      count    = 0;       // elements of an array, 1 otherwise
    const uint8_t *               raw      = nullptr; // packed scalars, not aligned; null for strings
    std::vector<std::string_view> strings;

    // Element i of a scalar type as a double or, for integers and bools, as int64 (u64 saturates).
    double      number(uint64_t i = 0) const;
    int64_t     integer(uint64_t i = 0) const;
    bool        is_integer() const; // elements are integers (bool included)
    bool        is_number() const;
    std::string type_name() const; // "u32", "arr str"
    std::string text() const;      // scalar or string as text; "" for an array
};

struct gguf_tensor_info {
    std::string name;
    int         n_dims            = 0;
    int64_t     ne[GGML_MAX_DIMS] = {1, 1, 1, 1};
    ggml_type   type              = GGML_TYPE_COUNT;
    uint64_t    offset            = 0; // from the start of the file
    uint64_t    nbytes            = 0;

    std::string shape_text() const; // "{64, 160}"
};

class gguf_file {
  public:
    // Throws ERR_FILE when it cannot be mapped, ERR_FORMAT when it is not a sound GGUF v3 file.
    explicit gguf_file(const std::string & path);

    const std::string & path() const { return path_; }
    uint64_t            size() const { return map_.size(); }
    mapped_file &       bytes() { return map_; }
    const uint8_t *     data(const gguf_tensor_info & t) const { return map_.data() + t.offset; }

    const std::vector<std::pair<std::string, gguf_value>> & keys() const { return keys_; }
    const std::vector<gguf_tensor_info> &                   tensors() const { return tensors_; }
    const gguf_value *                                      find_key(const std::string & name) const;
    const gguf_tensor_info *                                find_tensor(const std::string & name) const;

  private:
    friend class gguf_parser;

    std::string                                     path_;
    mapped_file                                     map_;
    std::vector<std::pair<std::string, gguf_value>> keys_;
    std::vector<gguf_tensor_info>                   tensors_;
    std::unordered_map<std::string, size_t>         key_index_, tensor_index_;
};

} // namespace ggml_sparse
