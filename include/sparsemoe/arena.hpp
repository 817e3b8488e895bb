// SPDX-License-Identifier: Apache-2.0
// arena.hpp -- one allocation for a whole step. take() carves, Scope gives temporaries back, reset() ends the step.
// The first step measures: what did not fit came from extra blocks, and reset() merges them into one block, so a steady
// step allocates nothing. Read next: backend/cpu.hpp, whose Context holds the arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "sparsemoe/view.hpp"

namespace sparsemoe::inline SPARSEMOE_ABI {

/// Memory of a backend, freed with the object. `Memory` gives static allocate(bytes) and deallocate(pointer).
template <class Memory>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes) : data_(bytes != 0 ? Memory::allocate(bytes) : nullptr), bytes_(bytes) {}
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() {
    if (data_ != nullptr) Memory::deallocate(data_);
  }
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

template <class Memory>
class Arena {
 public:
  static constexpr std::size_t alignment = 256;

  /// Uninitialised room for n values.
  template <class T>
  T* take(index_t n) {
    const std::size_t bytes = (static_cast<std::size_t>(n) * sizeof(T) + alignment - 1) / alignment * alignment;
    if (bytes == 0) return nullptr;
    if (blocks_.empty() || used_ + bytes > blocks_[block_].bytes()) next_block(bytes);
    T* p = reinterpret_cast<T*>(static_cast<std::byte*>(blocks_[block_].data()) + used_);
    used_ += bytes;
    const std::size_t total = filled_ + used_;
    peak_ = total > peak_ ? total : peak_;
    if (poison_) Memory::poison(p, bytes);
    return p;
  }
  /// Uninitialised (rows, cols).
  template <class T>
  Matrix<T> matrix(index_t rows, index_t cols) {
    return {take<T>(rows * cols), rows, cols};
  }

  /// Ends a step: everything taken is given back. Call with no Scope open.
  void reset() {
    if (blocks_.size() > 1) {
      const std::size_t total = peak_ + peak_ / 16 + alignment * 64;  // slack: blocks are not filled to the last byte
      blocks_.clear();
      blocks_.emplace_back(total);
    }
    block_ = used_ = filled_ = 0;
  }
  /// Makes room for a step of `bytes` at once.
  void reserve(std::size_t bytes) {
    if (blocks_.empty() || blocks_[0].bytes() < bytes) {
      blocks_.clear();
      blocks_.emplace_back(bytes);
    }
    block_ = used_ = filled_ = 0;
  }
  std::size_t peak_bytes() const { return peak_; }
  /// From now on every take() is filled with NaN bytes: a test that an output is assigned, not assumed to be zero.
  void poison(bool on) { poison_ = on; }

  /// Gives back, at its end, everything taken since its start. Caches that must outlive it are taken before it.
  class Scope {
   public:
    explicit Scope(Arena& arena) : arena_(arena), block_(arena.block_), used_(arena.used_), filled_(arena.filled_) {}
    ~Scope() {
      arena_.block_ = block_;
      arena_.used_ = used_;
      arena_.filled_ = filled_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Arena& arena_;
    std::size_t block_, used_, filled_;
  };

 private:
  void next_block(std::size_t bytes) {
    while (block_ + 1 < blocks_.size()) {
      filled_ += used_;
      ++block_;
      used_ = 0;
      if (bytes <= blocks_[block_].bytes()) return;
    }
    constexpr std::size_t least = std::size_t(1) << 20;
    const std::size_t grown = peak_ > least ? peak_ : least;
    if (!blocks_.empty()) {
      filled_ += used_;
      ++block_;
    }
    blocks_.emplace_back(bytes > grown ? bytes : grown);
    used_ = 0;
  }

  std::vector<Buffer<Memory>> blocks_;
  std::size_t block_ = 0, used_ = 0, filled_ = 0, peak_ = 0;
  bool poison_ = false;
};

}  // namespace sparsemoe::inline SPARSEMOE_ABI
