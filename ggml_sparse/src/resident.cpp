// A model's weights in memory of their own: matrices that are only multiplied are packed on the way.

#include "error.h"
#include "model.h"
#include "packing.h"

#include <algorithm>
#include <vector>

using namespace ggml_sparse;

// Matrices that can be packed, and where their rows lie in the file.
class pack_list {
  public:
    explicit pack_list(const mapped_file & file) : file_(file) {}

    // m and the n_set - 1 like it that follow.
    void add(ggml_sparse_matrix & m, int64_t n_set, ggml_sparse_layout layout = GGML_SPARSE_LAYOUT_PACKED) {
        const row_packing * packing = m.data ? packing_find(m.type, layout, m.n_col) : nullptr;
        if (packing) {
            const size_t row   = ggml_row_size(ggml_type(m.type), m.n_col);
            const size_t begin = size_t(static_cast<const uint8_t *>(m.data) - file_.data());
            matrices_.push_back({&m, layout, begin, row});
            ranges_.push_back({begin, begin + row * size_t(m.n_row * n_set), row, packing->pack, m.n_col, begin, row});
        }
    }

    // Of the last two that were added, rows i side by side; where they are alike and one follows the other.
    void pair_last() {
        if (ranges_.size() < 2) {
            return;
        }
        rewritten_range &first = ranges_[ranges_.size() - 2], &second = ranges_.back();
        if (first.end != second.begin || first.unit != second.unit || first.end - first.begin != second.end - second.begin) {
            return;
        }
        second.to    = first.to + first.unit;
        first.stride = second.stride = 2 * first.unit;
        for (size_t i = 0; i < 2; ++i) {
            packed & p = matrices_[matrices_.size() - 2 + i];
            p.to       = ranges_[ranges_.size() - 2 + i].to;
            p.stride   = first.stride;
        }
    }

    std::vector<rewritten_range> ranges() const {
        std::vector<rewritten_range> rising = ranges_;
        std::sort(rising.begin(), rising.end(), [](const rewritten_range & a, const rewritten_range & b) { return a.begin < b.begin; });
        return rising;
    }

    void set_packed() const {
        for (const packed & p : matrices_) {
            p.matrix->layout     = p.layout;
            p.matrix->data       = file_.data() + p.to;
            p.matrix->row_stride = p.stride;
        }
    }

  private:
    struct packed {
        ggml_sparse_matrix * matrix;
        ggml_sparse_layout   layout;
        size_t               to, stride; // of its rows
    };

    const mapped_file &          file_;
    std::vector<packed>          matrices_;
    std::vector<rewritten_range> ranges_; // theirs
};

// Every matrix gets the layout that its reader wants: dots and tiles, or sums of rows. A predictor picks neurons here and there, and memory gives
// the two rows of each faster side by side (docs/decisions.md, 25); without one, first branches are read in order.
void ggml_sparse_model::make_resident(ggml_sparse_mode mode) {
    if (file.bytes().resident()) {
        return;
    }
    const bool predicted = (mode == GGML_SPARSE_MODE_DEFAULT ? spec.info.default_mode : mode) == GGML_SPARSE_MODE_PREDICTED;
    pack_list  list(file.bytes());
    for (layer_spec & l : spec.layers) {
        const int64_t n_set = std::max(spec.info.n_expert, 1);
        list.add(l.ffn.gate, n_set);
        list.add(l.ffn.up, n_set);
        if (predicted && l.ffn.fc1.data) {
            list.pair_last();
        }
        list.add(l.ffn.fc1, n_set);
        list.add(l.ffn.fc2, n_set);
        list.add(l.ffn.down_t, n_set, GGML_SPARSE_LAYOUT_SUMS);
        list.add(l.ffn.fc2_t, n_set, GGML_SPARSE_LAYOUT_SUMS);
    }
    for (ggml_sparse_matrix & m : products.matrices()) {
        list.add(m, 1);
    }
    file.bytes().make_resident(list.ranges());
    list.set_packed();
}

// --- C API -------------------------------------------------------------------------

static constexpr uint64_t k_worth_copying = uint64_t(64) << 20; // smaller files fit caches, or nearly so

static bool has_room(uint64_t bytes) { return bytes >= k_worth_copying && bytes <= available_memory() / 3 * 2; }

ggml_sparse_status ggml_sparse_model_make_resident(ggml_sparse_model * model, ggml_sparse_mode mode, bool force, bool * resident,
                                                   ggml_sparse_error * err) noexcept {
    return guard(err, [&] {
        require_argument(model, "ggml_sparse_model_make_resident: model must not be NULL");
        if (force || has_room(model->file.size())) {
            model->make_resident(mode);
        }
        if (resident) {
            *resident = model->file.bytes().resident();
        }
    });
}
