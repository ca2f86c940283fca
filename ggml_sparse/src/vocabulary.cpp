#include "vocabulary.h"

#include <cstdio>
#include <unordered_set>

namespace ggml_sparse {

namespace {

class vocabulary_reader {
  public:
    vocabulary_reader(key_reader & keys, ggml_sparse_model_info & info) : keys_(keys), info_(info) {}

    void read() {
        const std::string model = keys_.string_key("tokenizer.ggml.model", nullptr);
        if (model == "no_vocab") { // the self-test's
            return;
        }
        if (model != "llama" && model != "gpt2") {
            keys_.unsupported("tokenizer.ggml.model", "llama (SentencePiece) or gpt2 (BPE)", "\"" + model + "\"");
        }
        const gguf_value * tokens = token_array("tokenizer.ggml.tokens", GGUF_TYPE_STRING, true);
        distinct(*tokens);
        token_array("tokenizer.ggml.scores", GGUF_TYPE_FLOAT32, model == "llama");
        const gguf_value * types = token_array("tokenizer.ggml.token_type", GGUF_TYPE_INT32, model == "llama");
        for (uint64_t i = 0; types && i < types->count; ++i) {
            if (types->integer(i) < 1 || types->integer(i) > 6) {
                keys_.fail("tokenizer.ggml.token_type", "values from 1 to 6", std::to_string(types->integer(i)));
            }
        }
        if (model == "llama") {
            byte_tokens(*tokens, *types);
        } else {
            merges();
        }
        special_tokens(model == "llama");
    }

  private:
    const gguf_value * token_array(const std::string & name, gguf_type type, bool required) {
        const gguf_value * v        = keys_.key(name);
        const std::string  expected = "an array of " + std::to_string(info_.n_vocab);
        if (!v && required) {
            keys_.fail(name, expected, "no such key");
        }
        if (v && (!v->is_array || v->type != type)) {
            keys_.fail(name, expected, v->type_name());
        }
        if (v && v->count != uint64_t(info_.n_vocab)) {
            keys_.fail(name, expected + " (turbosparse.vocab_size)", std::to_string(v->count));
        }
        return v;
    }

    int32_t token_id(const std::string & name) { return int32_t(keys_.optional_integer(name, 0, info_.n_vocab - 1, -1)); }

    void distinct(const gguf_value & tokens) {
        std::unordered_set<std::string_view> seen;
        for (const auto & t : tokens.strings) {
            if (t.empty() || t.find('\0') != t.npos || !seen.insert(t).second) {
                keys_.fail("tokenizer.ggml.tokens", "distinct tokens, not empty and without NUL",
                           "\"" + std::string(t.data(), t.size()) + "\"");
            }
        }
        // libllama presumes <unk>, bos and eos at 0, 1 and 2 of a SentencePiece vocabulary
        if (tokens.count < 3) {
            keys_.fail("tokenizer.ggml.tokens", "at least 3 tokens", std::to_string(tokens.count));
        }
    }

    void merges() {
        const gguf_value & v = keys_.required_key("tokenizer.ggml.merges", "an array of strings");
        if (!v.is_array || v.type != GGUF_TYPE_STRING) {
            keys_.fail("tokenizer.ggml.merges", "an array of strings", v.type_name());
        }
    }

    // SentencePiece falls back to <0x00> ... <0xFF>; libllama throws or aborts without them.
    void byte_tokens(const gguf_value & tokens, const gguf_value & types) {
        static constexpr int k_byte = 6;
        for (uint64_t i = 0; i < tokens.count; ++i) {
            if (types.integer(i) != k_byte) {
                continue;
            }
            const std::string t(tokens.strings[i]);
            unsigned          byte = 0;
            int               used = 0;
            if (t.size() != 6 || std::sscanf(t.c_str(), "<0x%2X>%n", &byte, &used) != 1 || used != 6) {
                keys_.fail("tokenizer.ggml.tokens", "byte tokens written <0xNN>", "\"" + t + "\"");
            }
        }
    }

    void special_tokens(bool spm) {
        info_.token_bos = token_id("tokenizer.ggml.bos_token_id");
        info_.token_eos = token_id("tokenizer.ggml.eos_token_id");
        info_.token_eot = token_id("tokenizer.ggml.eot_token_id");
        for (const char * name : {"unknown", "padding", "eom", "seperator", "mask"}) {
            token_id("tokenizer.ggml." + std::string(name) + "_token_id");
        }
        info_.add_bos = keys_.optional_integer("tokenizer.ggml.add_bos_token", 0, 1, spm) != 0;
        if (info_.add_bos && info_.token_bos < 0) {
            keys_.fail("tokenizer.ggml.bos_token_id", "a token, because add_bos_token is true", "no such key");
        }
        if (keys_.optional_integer("tokenizer.ggml.add_eos_token", 0, 1, 0) && info_.token_eos < 0) {
            keys_.fail("tokenizer.ggml.eos_token_id", "a token, because add_eos_token is true", "no such key");
        }
    }

    key_reader &             keys_;
    ggml_sparse_model_info & info_;
};

} // namespace

void read_vocabulary(key_reader & keys, ggml_sparse_model_info & info) { vocabulary_reader(keys, info).read(); }

} // namespace ggml_sparse
