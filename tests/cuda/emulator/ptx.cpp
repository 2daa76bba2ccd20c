#include "ptx.h"

#include <algorithm>
#include <cctype>
#include <regex>
#include <set>
#include <sstream>

namespace emulator {
namespace {

std::string trim(const std::string& text) {
  const auto from = text.find_first_not_of(" \t\r\n"), to = text.find_last_not_of(" \t\r\n");
  return from == std::string::npos ? "" : text.substr(from, to - from + 1);
}

std::vector<std::string> split(const std::string& text, char by) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, by);) parts.push_back(trim(part));
  return parts;
}

// Operands: commas outside of {} and [].
std::vector<std::string> operands(const std::string& text) {
  std::vector<std::string> list;
  std::string now;
  int depth = 0;
  for (char c : text) {
    depth += (c == '{' || c == '[') - (c == '}' || c == ']');
    if (c == ',' && depth == 0) {
      list.push_back(trim(now));
      now.clear();
    } else {
      now += c;
    }
  }
  if (!trim(now).empty()) list.push_back(trim(now));
  return list;
}

int bytes_of(const std::string& type) {
  static const std::map<std::string, int> sizes = {
      {"b8", 1}, {"u8", 1}, {"s8", 1}, {"b16", 2}, {"u16", 2}, {"s16", 2}, {"b32", 4}, {"u32", 4},
      {"s32", 4}, {"f32", 4}, {"b64", 8}, {"u64", 8}, {"s64", 8}, {"f64", 8}};
  const auto found = sizes.find(type);
  if (found == sizes.end()) throw std::runtime_error("unknown type " + type);
  return found->second;
}

// Symbols with their place in parameter or shared memory, laid out in order.
struct Layout {
  std::map<std::string, int64_t> places;
  int size = 0;
  void add(const std::string& name, int bytes, int align) {
    size = (size + align - 1) / align * align;
    places[name] = size;
    size += bytes;
  }
};

class Builder {
 public:
  Builder(Kernel& kernel, Layout params, Layout shared) : kernel_(kernel), params_(params), shared_(shared) {}

  void build(const std::string& body) {
    for (std::string line : statements(body)) add(line);
    for (auto& [index, label] : branches_) {
      if (!labels_.count(label)) throw std::runtime_error("no label " + label);
      kernel_.code[index].target = labels_[label];
    }
    kernel_.registers = next_;
  }

 private:
  // Statements end with ; and labels with :. Scopes { } of inline assembly only rename %temp, which is set before each use.
  static std::vector<std::string> statements(const std::string& body) {
    std::vector<std::string> list;
    std::string now;
    int depth = 0;  // of operand braces
    for (size_t i = 0; i < body.size(); ++i) {
      const char c = body[i];
      const bool scope = (c == '{' && trim(now).empty()) || (c == '}' && depth == 0);
      if (scope) continue;
      depth += (c == '{') - (c == '}');
      now += c;
      if (c == ';' || (c == ':' && is_label(trim(now)))) {
        if (c == ';') now.pop_back();
        if (!trim(now).empty()) list.push_back(trim(now));
        now.clear();
      }
    }
    return list;
  }

  static bool is_label(const std::string& text) {
    return text.size() > 1 && std::all_of(text.begin(), text.end() - 1, is_word);
  }

  static bool is_word(char c) { return std::isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%'; }

  int register_of(const std::string& name) {
    auto [place, fresh] = registers_.try_emplace(name, next_);
    if (fresh) ++next_;
    return place->second;
  }

  int constant(uint64_t value) {
    const int number = next_++;
    kernel_.constants.push_back({number, value});
    return number;
  }

  int source(const std::string& text) {
    static const std::set<std::string> specials = {"%tid", "%ntid", "%ctaid", "%nctaid", "%laneid"};
    if (specials.count(text.substr(0, text.find('.')))) {
      auto [place, fresh] = registers_.try_emplace(text, next_);
      if (fresh) kernel_.specials.push_back({next_++, text});
      return place->second;
    }
    if (text[0] == '%') return register_of(text);
    if (text.rfind("0f", 0) == 0 || text.rfind("0d", 0) == 0) return constant(std::stoull(text.substr(2), nullptr, 16));
    if (std::isdigit(text[0])) return constant(std::stoull(text, nullptr, 0));
    if (text[0] == '-') return constant((uint64_t)std::stoll(text, nullptr, 0));
    for (const Layout* layout : {&shared_, &params_}) {  // an address in the space of its symbol
      if (layout->places.count(text)) return constant((uint64_t)layout->places.at(text));
    }
    throw std::runtime_error("operand " + text);
  }

  void each(const std::string& text, std::vector<int>& list, bool destination) {
    if (text[0] == '{') {
      for (const auto& part : split(text.substr(1, text.size() - 2), ',')) each(part, list, destination);
    } else {
      list.push_back(destination ? register_of(text) : source(text));
    }
  }

  void address(const std::string& text, Instruction& instruction) {
    if (text.front() != '[' || text.back() != ']') throw std::runtime_error("address " + text);
    const auto parts = split(text.substr(1, text.size() - 2), '+');
    if (parts.empty() || parts.size() > 2) throw std::runtime_error("address " + text);
    const std::string base = parts[0];
    instruction.offset = parts.size() == 2 ? std::stoll(parts[1]) : 0;
    instruction.from.push_back(source(base));
  }

  void add(std::string line) {
    if (line.back() == ':') {
      labels_[line.substr(0, line.size() - 1)] = (int)kernel_.code.size();
      return;
    }
    if (line[0] == '.') {
      static const std::set<std::string> known = {".reg", ".shared", ".pragma", ".loc", ".file"};
      if (!known.count(line.substr(0, line.find_first_of(" \t")))) throw std::runtime_error(line);
      return;
    }
    Instruction instruction;
    instruction.text = line;
    std::replace(instruction.text.begin(), instruction.text.end(), '\t', ' ');
    if (line[0] == '@') {
      const auto end = line.find_first_of(" \t");
      instruction.negated = line[1] == '!';
      instruction.guard = register_of(line.substr(instruction.negated ? 2 : 1, end - (instruction.negated ? 2 : 1)));
      line = trim(line.substr(end));
    }
    const auto space = line.find_first_of(" \t");
    const std::string name = line.substr(0, space);
    const auto list = operands(space == std::string::npos ? "" : line.substr(space));
    auto parts = split(name, '.');
    const std::string base = parts[0];
    const auto has = [&](const char* part) { return std::count(parts.begin(), parts.end(), part) > 0; };

    if (base == "ret" || base == "exit") {
      instruction.kind = Kind::EXIT;
    } else if (base == "bra") {
      instruction.kind = Kind::BRANCH;
      branches_.push_back({kernel_.code.size(), list.at(0)});
    } else if ((base == "bar" || base == "barrier") && !has("warp")) {
      if (list.at(0) != "0" || list.size() != 1) throw std::runtime_error(line);
      instruction.kind = Kind::BARRIER;
    } else if (base == "griddepcontrol" || name == "cp.async.wait_all") {
      instruction.handler = find_handler(name);
    } else if (name == "cp.async.cg.shared.global" || name == "cp.async.ca.shared.global") {
      for (int i = 0; i < 2; ++i) {
        address(list.at(i), instruction);
        if (instruction.offset) throw std::runtime_error(line);
      }
      instruction.bytes = (uint8_t)std::stoi(list.at(2));
      const std::set<int> sizes = has("cg") ? std::set{16} : std::set{4, 8, 16};
      if (!sizes.count(instruction.bytes)) throw std::runtime_error(line);
      instruction.handler = find_handler("cp.async");
    } else if (base == "ld" || base == "st") {
      instruction.space = has("global") ? Space::GLOBAL : has("shared") ? Space::SHARED : has("param") ? Space::PARAM : Space::GENERIC;
      instruction.bytes = (uint8_t)bytes_of(parts.back());
      instruction.count = has("v2") ? 2 : has("v4") ? 4 : 1;
      if (has("v8")) throw std::runtime_error(line);
      address(list.at(base == "ld" ? 1 : 0), instruction);
      each(list.at(base == "ld" ? 0 : 1), base == "ld" ? instruction.to : instruction.from, base == "ld");
      const bool is_signed = parts.back()[0] == 's' && instruction.bytes < 8;
      instruction.handler = find_handler(base == "st" ? "st" : is_signed ? "ld.s" + std::to_string(8 * instruction.bytes) : "ld");
    } else if (base == "atom" || base == "red") {
      instruction.space = has("global") ? Space::GLOBAL : has("shared") ? Space::SHARED : Space::GENERIC;
      const size_t operand = base == "atom" ? 1 : 0;
      if (base == "atom") each(list.at(0), instruction.to, true);
      address(list.at(operand), instruction);
      each(list.at(operand + 1), instruction.from, false);
      instruction.handler = find_handler(base + "." + parts.at(parts.size() - 2) + "." + parts.back());
    } else {
      const bool packs = base == "mov" && list.at(1)[0] == '{', unpacks = base == "mov" && list.at(0)[0] == '{';
      const auto bar = list.at(0).find('|');  // shfl: value|inside
      if (bar != std::string::npos) {
        instruction.to = {register_of(trim(list[0].substr(0, bar))), register_of(trim(list[0].substr(bar + 1)))};
      } else if (!(base == "bar")) {
        each(list.at(0), instruction.to, true);
      }
      for (size_t i = base == "bar" ? 0 : 1; i < list.size(); ++i) {
        each(list[i], instruction.from, false);
      }
      instruction.count = (uint8_t)std::max(instruction.to.size(), instruction.from.size());
      std::string key;
      if (packs || unpacks) {
        instruction.bytes = (uint8_t)(bytes_of(parts.back()) / instruction.count);
        key = packs ? "pack" : "unpack";
      } else {
        // Rounding to nearest is what the host does, and caching hints change nothing.
        static const std::set<std::string> silent = {"uni", "sync", "aligned"};
        const bool keeps_rounding = base == "cvt";
        for (const auto& part : parts) {
          if (!silent.count(part) && (keeps_rounding || part != "rn")) key += (key.empty() ? "" : ".") + part;
        }
      }
      if (base == "shfl" || base == "vote" || base == "bar") instruction.kind = Kind::WARP_SYNC;
      instruction.handler = find_handler(key);
    }
    const bool needs_handler = instruction.kind == Kind::PLAIN || instruction.kind == Kind::WARP_SYNC;
    if (needs_handler && !instruction.handler) throw std::runtime_error("unknown instruction: " + instruction.text);
    kernel_.code.push_back(std::move(instruction));
  }

  Kernel& kernel_;
  Layout params_, shared_;
  std::map<std::string, int> registers_, labels_;
  std::vector<std::pair<size_t, std::string>> branches_;
  int next_ = 0;
};

std::string without_comments(const std::string& ptx) {
  std::stringstream lines(ptx);
  std::string text;
  for (std::string line; std::getline(lines, line);) text += line.substr(0, line.find("//")) + "\n";
  return text;
}

}  // namespace

std::map<std::string, Kernel> parse(const std::string& ptx) {
  const std::string text = without_comments(ptx);
  std::map<std::string, Kernel> kernels;
  size_t at = 0;
  while ((at = text.find(".entry", at)) != std::string::npos) {
    const size_t open = text.find('(', at), close = text.find(')', open);
    const size_t begin = text.find('{', close), end = text.find("\n}", begin);
    if (end == std::string::npos) throw std::runtime_error("a kernel without an end");
    Kernel kernel;
    kernel.name = trim(text.substr(at + 6, open - at - 6));
    const std::string body = text.substr(begin + 1, end - begin - 1);

    Layout params, shared;
    for (const auto& part : operands(text.substr(open + 1, close - open - 1))) {
      std::smatch match;
      if (std::regex_match(part, match, std::regex(R"(\.param\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\])"))) {
        params.add(match[2], std::stoi(match[3]), std::stoi(match[1]));
      } else if (std::regex_match(part, match, std::regex(R"(\.param\s+\.(\w+)\s+(\w+))"))) {
        params.add(match[2], bytes_of(match[1]), bytes_of(match[1]));
      } else {
        throw std::runtime_error("parameter " + part);
      }
    }
    static const std::regex declaration(R"(\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\])");
    for (const auto& where : {text.substr(0, text.find(".entry")), body}) {
      for (std::sregex_iterator i(where.begin(), where.end(), declaration), none; i != none; ++i) {
        shared.add((*i)[2], std::stoi((*i)[3]), std::stoi((*i)[1]));
      }
    }
    kernel.param_bytes = params.size;
    kernel.shared_bytes = shared.size;
    Builder(kernel, params, shared).build(body);
    kernels[kernel.name] = std::move(kernel);
    at = end;
  }
  return kernels;
}

}  // namespace emulator
