#pragma once

// The bytes of a whole file at one address for good: mapped, or, on demand, copied into memory
// of huge pages that takes the mapping's place. A mapping is read through 4 KiB pages (few file
// systems have larger ones), which costs a third of the memory bandwidth: docs/decisions.md.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace ggml_sparse {

// Bytes begin .. end - 1 of a file are runs of `unit` bytes, each of which is to lie in memory as write(arg,
// file, memory) says, in as many bytes: the first at `to`, the others `stride` bytes apart. All ranges together fill
// the bytes that they replace. Called by several threads, for whole runs, from_file not in the file.
struct rewritten_range {
    size_t begin, end, unit;
    void (*write)(int64_t arg, const uint8_t * from_file, uint8_t * to);
    int64_t arg;
    size_t  to, stride;
};

class mapped_file {
  public:
    // Throws ERR_FILE when `path` is no readable regular file, ERR_FORMAT when it is empty.
    explicit mapped_file(const std::string & path);
    ~mapped_file();
    mapped_file(const mapped_file &)             = delete;
    mapped_file & operator=(const mapped_file &) = delete;

    const uint8_t * data() const { return data_; }
    size_t          size() const { return size_; }
    bool            resident() const { return resident_; }

    // Copies the file into memory under the same addresses, all but `rewritten`: disjoint and rising. Throws
    // ERR_MEMORY when there is no room and ERR_FILE when reading fails; the mapping is then as before.
    void make_resident(const std::vector<rewritten_range> & rewritten);

  private:
    std::string     path_;
    int             fd_       = -1;
    const uint8_t * data_     = nullptr;
    size_t          size_     = 0;
    bool            resident_ = false;
};

// Bytes that this process may still take without pushing others out: what the system has
// available, within the limit of the process's control group. 0 when unknown.
uint64_t available_memory();

} // namespace ggml_sparse
