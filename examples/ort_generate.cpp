// Greedy generation with the graph `ort.onnx` of an artifact, by ONNX Runtime's C++ API alone.
//
//   g++ -std=c++17 -O2 ort_generate.cpp -I HEADERS LIBRARY/libonnxruntime.so -o ort_generate
//   ./ort_generate artifacts/NAME/ort.onnx 16 504 3575 282
//
// The arguments: the graph, how many tokens to generate, and the prompt's tokens. It prints the
// prompt's tokens and the new ones. Text becomes tokens by the artifact's tokenizer.json, which a
// library of your choice reads. Works with every fp32, int8, int8-wo and int4 artifact.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

constexpr int64_t kMostNew = 256;  // tokens of a step: a longer prompt is given in parts

class Model {
 public:
  explicit Model(const char* graph)
      : environment_(ORT_LOGGING_LEVEL_ERROR, "generate"),
        session_(environment_, graph, Ort::SessionOptions{}),
        memory_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)),
        binding_(session_) {
    Ort::AllocatorWithDefaultOptions allocator;
    logits_.resize(session_.GetOutputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape().back());
    // Past and present are one buffer: the graph writes what is new into it, and copies nothing.
    for (size_t i = 3; i < session_.GetInputCount(); ++i) {  // behind ids, positions and index
      auto shape = session_.GetInputTypeInfo(i).GetTensorTypeAndShapeInfo().GetShape();
      shape[0] = 1;  // rows
      capacity_ = shape[2];
      cache_.emplace_back(shape[1] * shape[2] * shape[3], 0.0f);
      const Ort::Value slots = tensor(cache_.back(), shape);
      std::string name = session_.GetInputNameAllocated(i, allocator).get();
      binding_.BindInput(name.c_str(), slots);
      name.replace(0, 4, "present");  // past.0.key, present.0.key
      binding_.BindOutput(name.c_str(), slots);
    }
    const std::array<int64_t, 3> one{1, 1, static_cast<int64_t>(logits_.size())};
    binding_.BindOutput("logits", tensor(logits_, one));
  }

  // Run tokens behind `filled` positions; the token that is likeliest to follow.
  int64_t step(std::vector<int64_t> tokens, int64_t filled) {
    const auto count = static_cast<int64_t>(tokens.size());
    if (filled + count > capacity_) throw std::runtime_error("the cache is full");  // not checked
    std::vector<int64_t> positions(tokens.size()), index{count - 1};
    for (int64_t i = 0; i < count; ++i) positions[i] = filled + i;
    const std::array<int64_t, 2> shape{1, count}, one{1, 1};
    binding_.BindInput("input_ids", tensor(tokens, shape));
    binding_.BindInput("position_ids", tensor(positions, shape));
    binding_.BindInput("logit_index", tensor(index, one));
    session_.Run(Ort::RunOptions{}, binding_);
    return std::max_element(logits_.begin(), logits_.end()) - logits_.begin();
  }

 private:
  template <typename T, typename Shape>
  Ort::Value tensor(std::vector<T>& data, const Shape& shape) const {
    return Ort::Value::CreateTensor<T>(memory_, data.data(), data.size(), shape.data(),
                                       shape.size());
  }

  Ort::Env environment_;
  Ort::Session session_;
  Ort::MemoryInfo memory_;
  Ort::IoBinding binding_;
  std::vector<std::vector<float>> cache_;
  std::vector<float> logits_;
  int64_t capacity_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::cerr << "usage: ort_generate GRAPH COUNT TOKEN...\n";
    return 2;
  }
  try {
    Model model(argv[1]);
    std::vector<int64_t> tokens;
    for (int i = 3; i < argc; ++i) tokens.push_back(std::atoll(argv[i]));
    int64_t next = 0, filled = 0;
    while (filled < static_cast<int64_t>(tokens.size())) {
      const auto begin = tokens.begin() + filled;
      const int64_t count = std::min<int64_t>(kMostNew, tokens.end() - begin);
      next = model.step({begin, begin + count}, filled);
      filled += count;
    }
    for (long left = std::atol(argv[2]); left > 0; --left) {
      tokens.push_back(next);
      if (left > 1) next = model.step({next}, filled++);
    }
    for (const int64_t token : tokens) std::cout << token << ' ';
    std::cout << '\n';
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
  return 0;
}
