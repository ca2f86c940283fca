#include "gguf-file.h"

#include "error.h"

#include <cstring>
#include <limits>

namespace ggml_sparse {

static constexpr uint32_t k_version   = 3;
static constexpr uint64_t k_max_name  = 65535; // bytes of a key
static constexpr uint32_t k_max_align = 1u << 20;

// --- values ------------------------------------------------------------------

static const char * const k_type_names[GGUF_TYPE_COUNT] = {
    "u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "str", "arr", "u64", "i64", "f64",
};

static size_t scalar_size(gguf_type type) {
    static const size_t sizes[GGUF_TYPE_COUNT] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return sizes[type];
}

template <typename T> static T load(const uint8_t * p) {
    T v;
    std::memcpy(&v, p, sizeof(T));
    return v;
}

bool gguf_value::is_number() const { return type != GGUF_TYPE_STRING && type != GGUF_TYPE_ARRAY && type != GGUF_TYPE_COUNT; }

bool gguf_value::is_integer() const { return is_number() && type != GGUF_TYPE_FLOAT32 && type != GGUF_TYPE_FLOAT64; }

int64_t gguf_value::integer(uint64_t i) const {
    const uint8_t * p = raw + i * scalar_size(type);
    switch (type) {
        case GGUF_TYPE_UINT8: return load<uint8_t>(p);
        case GGUF_TYPE_INT8: return load<int8_t>(p);
        case GGUF_TYPE_UINT16: return load<uint16_t>(p);
        case GGUF_TYPE_INT16: return load<int16_t>(p);
        case GGUF_TYPE_UINT32: return load<uint32_t>(p);
        case GGUF_TYPE_INT32: return load<int32_t>(p);
        case GGUF_TYPE_INT64: return load<int64_t>(p);
        case GGUF_TYPE_BOOL: return load<uint8_t>(p) != 0;
        case GGUF_TYPE_UINT64: {
            const uint64_t v = load<uint64_t>(p);
            return v > uint64_t(INT64_MAX) ? INT64_MAX : int64_t(v);
        }
        default: return 0;
    }
}

double gguf_value::number(uint64_t i) const {
    const uint8_t * p = raw + i * scalar_size(type);
    switch (type) {
        case GGUF_TYPE_FLOAT32: return load<float>(p);
        case GGUF_TYPE_FLOAT64: return load<double>(p);
        default: return double(integer(i));
    }
}

std::string gguf_value::type_name() const { return std::string(is_array ? "arr " : "") + k_type_names[type]; }

std::string gguf_value::text() const {
    if (is_array) {
        return "";
    }
    if (type == GGUF_TYPE_STRING) {
        return std::string(strings[0]);
    }
    if (type == GGUF_TYPE_BOOL) {
        return integer() ? "true" : "false";
    }
    return is_integer() ? std::to_string(integer()) : std::to_string(number());
}

std::string gguf_tensor_info::shape_text() const {
    std::string s = "{";
    for (int i = 0; i < n_dims; ++i) {
        s += (i ? ", " : "") + std::to_string(ne[i]);
    }
    return s + "}";
}

// --- parsing -----------------------------------------------------------------

class gguf_parser {
  public:
    explicit gguf_parser(gguf_file & file) : file_(file), pos_(file.map_.data()), end_(pos_ + file.map_.size()) {}

    void parse() {
        const auto [n_tensors, n_keys] = header();
        for (uint64_t i = 0; i < n_keys; ++i) {
            key();
        }
        for (uint64_t i = 0; i < n_tensors; ++i) {
            tensor();
        }
        place_tensors(alignment());
    }

  private:
    uint64_t left() const { return uint64_t(end_ - pos_); }

    [[noreturn]] void fail(const std::string & where, const std::string & expected, const std::string & found) const {
        throw format_error(file_.path_, where, expected, found);
    }

    const uint8_t * take(uint64_t n, const std::string & where) {
        if (n > left()) {
            fail(where, std::to_string(n) + " more bytes", "the file ends after " + std::to_string(left()));
        }
        const uint8_t * p = pos_;
        pos_ += n;
        return p;
    }

    template <typename T> T scalar(const std::string & where) { return load<T>(take(sizeof(T), where)); }

    std::string_view string(const std::string & where) {
        const auto n = scalar<uint64_t>(where);
        if (n > left()) {
            fail(where, "a string within the file (" + std::to_string(left()) + " bytes left)", std::to_string(n) + " bytes");
        }
        return {reinterpret_cast<const char *>(take(n, where)), size_t(n)};
    }

    std::pair<uint64_t, uint64_t> header() {
        const uint8_t * magic = take(4, "magic");
        if (std::memcmp(magic, "GGUF", 4) != 0) {
            fail("magic", "\"GGUF\"", "another kind of file");
        }
        const auto version = scalar<uint32_t>("GGUF version");
        if (version != k_version) {
            fail("GGUF version", std::to_string(k_version), std::to_string(version));
        }
        const auto n_tensors = scalar<uint64_t>("tensor count");
        const auto n_keys    = scalar<uint64_t>("key count");
        // the smallest tensor and key entries are 25 and 13 bytes long
        if (n_tensors > left() / 25) {
            fail("tensor count", "at most " + std::to_string(left() / 25) + " in a file of this size", std::to_string(n_tensors));
        }
        if (n_keys > left() / 13) {
            fail("key count", "at most " + std::to_string(left() / 13) + " in a file of this size", std::to_string(n_keys));
        }
        return {n_tensors, n_keys};
    }

    void key() {
        const std::string name(string("key name"));
        if (name.empty() || name.size() > k_max_name) {
            fail("key name", "1 to 65535 bytes", std::to_string(name.size()));
        }
        if (!file_.key_index_.emplace(name, file_.keys_.size()).second) {
            fail(name, "each key once", "the key twice");
        }
        file_.keys_.emplace_back(name, value(name));
    }

    gguf_type value_type(const std::string & where) {
        const auto t = scalar<uint32_t>(where);
        if (t >= GGUF_TYPE_COUNT) {
            fail(where, "a GGUF value type below " + std::to_string(GGUF_TYPE_COUNT), std::to_string(t));
        }
        return gguf_type(t);
    }

    gguf_value value(const std::string & where) {
        gguf_value v;
        v.type  = value_type(where);
        v.count = 1;
        if (v.type == GGUF_TYPE_ARRAY) {
            v.is_array = true;
            v.type     = value_type(where);
            v.count    = scalar<uint64_t>(where);
            if (v.type == GGUF_TYPE_ARRAY) {
                fail(where, "an array of scalars or strings", "an array of arrays");
            }
        }
        const uint64_t element = v.type == GGUF_TYPE_STRING ? 8 : scalar_size(v.type);
        if (v.count > left() / element) {
            fail(where, "an array within the file (" + std::to_string(left()) + " bytes left)", std::to_string(v.count) + " elements");
        }
        if (v.type == GGUF_TYPE_STRING) {
            v.strings.reserve(v.count);
            for (uint64_t i = 0; i < v.count; ++i) {
                v.strings.push_back(string(where));
            }
        } else {
            v.raw = take(v.count * element, where);
        }
        return v;
    }

    void tensor() {
        gguf_tensor_info t;
        t.name = std::string(string("tensor name"));
        if (t.name.empty() || t.name.size() >= GGML_MAX_NAME) {
            fail("tensor name", "1 to 63 bytes", std::to_string(t.name.size()));
        }
        if (!file_.tensor_index_.emplace(t.name, file_.tensors_.size()).second) {
            fail(t.name, "each tensor once", "the tensor twice");
        }
        dimensions(t);
        type(t);
        t.offset = scalar<uint64_t>(t.name);
        file_.tensors_.push_back(std::move(t));
    }

    void dimensions(gguf_tensor_info & t) {
        const auto n_dims = scalar<uint32_t>(t.name);
        if (n_dims < 1 || n_dims > GGML_MAX_DIMS) {
            fail(t.name, "1 to 4 dimensions", std::to_string(n_dims));
        }
        t.n_dims  = int(n_dims);
        int64_t n = 1;
        for (int i = 0; i < t.n_dims; ++i) {
            const auto ne = scalar<uint64_t>(t.name);
            // 2^48 elements of at most 8 bytes keep every product below 2^63
            if (ne < 1 || ne > uint64_t(1) << 48 || __builtin_mul_overflow(n, int64_t(ne), &n) || n > int64_t(1) << 48) {
                fail(t.name, "dimensions of at least 1 and fewer than 2^48 elements",
                     "dimension " + std::to_string(i) + " = " + std::to_string(ne));
            }
            t.ne[i] = int64_t(ne);
        }
    }

    void type(gguf_tensor_info & t) {
        const auto type = scalar<uint32_t>(t.name);
        if (type >= GGML_TYPE_COUNT || ggml_blck_size(ggml_type(type)) == 0 || ggml_type_size(ggml_type(type)) == 0) {
            fail(t.name, "a tensor type that ggml " + std::string(ggml_version()) + " knows", std::to_string(type));
        }
        t.type              = ggml_type(type);
        const int64_t block = ggml_blck_size(t.type);
        if (t.ne[0] % block != 0) {
            fail(t.name, "rows of a multiple of " + std::to_string(block) + " for " + ggml_type_name(t.type), std::to_string(t.ne[0]));
        }
        const uint64_t rows = uint64_t(t.ne[1] * t.ne[2] * t.ne[3]);
        t.nbytes            = rows * uint64_t(t.ne[0] / block) * ggml_type_size(t.type);
    }

    uint64_t alignment() const {
        const gguf_value * v = file_.find_key("general.alignment");
        if (!v) {
            return GGUF_DEFAULT_ALIGNMENT;
        }
        const int64_t a = v->is_integer() && !v->is_array ? v->integer() : 0;
        if (a < GGUF_DEFAULT_ALIGNMENT || a > k_max_align || (a & (a - 1)) != 0) {
            fail("general.alignment", "a power of two from 32 to 1048576", std::to_string(a));
        }
        return uint64_t(a);
    }

    // ggml refuses any offset but the next aligned one, so tensors cannot overlap.
    void place_tensors(uint64_t align) {
        const uint64_t head = uint64_t(pos_ - file_.map_.data());
        const uint64_t base = (head + align - 1) / align * align;
        uint64_t       next = 0;
        for (auto & t : file_.tensors_) {
            if (t.offset != next) {
                fail(t.name, "offset " + std::to_string(next) + " (the next multiple of " + std::to_string(align) + ")",
                     std::to_string(t.offset));
            }
            t.offset = base + next;
            if (t.offset + t.nbytes > file_.map_.size()) {
                fail(t.name, "data up to byte " + std::to_string(t.offset + t.nbytes),
                     "the file ends at " + std::to_string(file_.map_.size()) + " (truncated?)");
            }
            next += (t.nbytes + align - 1) / align * align;
        }
    }

    gguf_file &     file_;
    const uint8_t * pos_;
    const uint8_t * end_;
};

gguf_file::gguf_file(const std::string & path) : path_(path), map_(path) { gguf_parser(*this).parse(); }

const gguf_value * gguf_file::find_key(const std::string & name) const {
    const auto it = key_index_.find(name);
    return it == key_index_.end() ? nullptr : &keys_[it->second].second;
}

const gguf_tensor_info * gguf_file::find_tensor(const std::string & name) const {
    const auto it = tensor_index_.find(name);
    return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

} // namespace ggml_sparse
