#pragma once

// The llama view: the FILE * through which libllama reads a TurboSparse file as a plain
// `llama` model. A generated header shows `turbosparse.*` keys as `llama.*`, leaves out
// predictors and maps and declares FFN tensors as the graph expects them; other tensor
// bytes come from the mapping; those of matrices are never touched.

#include "contract.h"

#include <cstdio>
#include <string>
#include <vector>

namespace ggml_sparse {

class llama_view {
  public:
    llama_view(const gguf_file & file, const model_spec & spec);

    // A stream over the view; the caller closes it before the view dies. Throws ERR_FILE.
    FILE * open();

    uint64_t ffn_bytes_copied() const { return ffn_bytes_copied_; } // handed to libllama: 0

    // cookie functions, see fopencookie(3)
    ssize_t read(char * buf, size_t size);
    int     seek(int64_t * offset, int whence);

  private:
    struct segment {
        uint64_t        begin, size;
        const uint8_t * data; // null: served without touching buffer or page
        bool            ffn;
    };

    void   add_header(const gguf_file & file, const model_spec & spec);
    size_t copy(char * buf, uint64_t pos, size_t size);

    std::vector<uint8_t> header_;
    std::vector<segment> segments_; // rising, header first
    uint64_t             size_ = 0, pos_ = 0;
    uint64_t             ffn_bytes_copied_ = 0;
};

// Patterns of the tensors that go to our buffer types, under the view's names: the FFN, and the
// matrices that are read where the file lies in memory.
constexpr const char * k_ffn_pattern    = "^blk\\.[0-9]+\\.ffn_(gate|up|down)(_exps)?\\.weight$";
constexpr const char * k_matrix_pattern = "^(token_embd|output|blk\\.[0-9]+\\.(attn_(q|k|v|output)|ffn_gate_inp))\\.weight$";

// Of those matrices, the ones that are only multiplied and by us: all but the embedding, where every layer's is of
// a type in quants.def.
std::string products_pattern(const model_spec & spec);

} // namespace ggml_sparse
