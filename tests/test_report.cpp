// SPDX-License-Identifier: Apache-2.0
// test_report.cpp -- charts and pages: well-formed, escaped, self-contained, and made from any log.
// Main idea: a small parser checks that every element is closed in order; hostile text must come out as text.
// Read next: include/sparsemoe/report/training_report.hpp.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <set>

#include "sparsemoe/report/svg_tree.hpp"
#include "sparsemoe/report/training_report.hpp"
#include "tests/scratch.hpp"

namespace {

using namespace sparsemoe;
namespace fs = std::filesystem;

/// What is wrong with the markup: "" if elements nest, attributes are quoted, and no bare < or & is in the text.
std::string markup_problem(std::string text) {
  static const std::set<std::string> empty_elements{"meta", "!DOCTYPE"};
  const std::size_t style = text.find("<style>"), style_end = text.find("</style>");
  if (style != std::string::npos) text.erase(style + 7, style_end - style - 7);
  std::vector<std::string> open;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string here = text.substr(i, 60);
    if (text[i] == '>') return "bare > at " + here;
    if (text[i] == '&') {
      const std::size_t end = text.find(';', i);
      const std::string entity = text.substr(i, end - i + 1);
      if (!std::set<std::string>{"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}.contains(entity))
        return "bare & at " + here;
    }
    if (text[i] != '<') continue;
    std::size_t end = i + 1;
    bool quoted = false;
    for (; end < text.size() && (quoted || text[end] != '>'); ++end) {
      if (text[end] == '"') quoted = !quoted;
      if (text[end] == '<') return "< in a tag at " + here;
    }
    const bool closing = text[i + 1] == '/';
    const std::size_t name_begin = i + (closing ? 2 : 1);
    const std::string name = text.substr(name_begin, text.find_first_of(" />", name_begin) - name_begin);
    if (closing) {
      if (open.empty() || open.back() != name) return "unexpected </" + name + "> at " + here;
      open.pop_back();
    } else if (text[end - 1] != '/' && !empty_elements.contains(name)) {
      open.push_back(name);
    }
    i = end;
  }
  return open.empty() ? "" : "unclosed " + open.back();
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

const std::string kHostile = "<script>alert('x')</script> & \"q\" \xff\x01 ]]>";

TEST_CASE("the markup checker finds faults") {
  CHECK(markup_problem("<p>a</p>").empty());
  CHECK(!markup_problem("<p>a").empty());
  CHECK(!markup_problem("<p><b></p></b>").empty());
  CHECK(!markup_problem("<p>a & b</p>").empty());
  CHECK(!markup_problem("<p>a > b</p>").empty());
  CHECK(!markup_problem("<p class=\"a<b\">b</p>").empty());
}

TEST_CASE("text is escaped, and what is not UTF-8 is replaced") {
  CHECK(escape_xml("<a href=\"x\">'&") == "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
  CHECK(escape_xml("\u00e6\u4e2d\U0001f600") == "\u00e6\u4e2d\U0001f600");
  CHECK(escape_xml(std::string("a\0b", 3)) ==
        "a\xef\xbf\xbd"
        "b");
  CHECK(escape_xml("\xc3") == "\xef\xbf\xbd");
  CHECK(escape_xml("\xed\xa0\x80").find('\xed') == std::string::npos);
  CHECK(escape_xml("a\n\tb") == "a\n\tb");
}

TEST_CASE("axis ticks are round and inside the range") {
  CHECK(detail::axis_ticks(0, 10, 5) == std::vector<double>{0, 2, 4, 6, 8, 10});
  for (const double low : {-1e9, -3.7, 0.0, 1e-9, 12345.0})
    for (const double width : {1e-6, 0.3, 7.0, 1e12}) {
      const auto ticks = detail::axis_ticks(low, low + width, 5);
      CHECK(ticks.size() >= 1);
      CHECK(ticks.size() <= 12);
    }
  CHECK(detail::axis_number(20000) == "20k");
  CHECK(detail::axis_number(12500) == "12.5k");
  CHECK(detail::axis_number(0.25) == "0.25");
  CHECK(detail::axis_number(100000) == "100k");
}

TEST_CASE("a line chart of any data is well-formed and finite") {
  const double nan = std::nan("");
  const std::vector<std::vector<double>> data{{},     {1},     {nan},           {nan, nan, 3, nan}, {1, 1, 1},
                                              {0, 0}, {-5, 5}, {1e300, -1e300}, {INFINITY, 2, 3},   {1e-300, 2e-300}};
  for (const auto& y : data) {
    std::vector<double> x;
    for (std::size_t i = 0; i < y.size(); ++i) x.push_back(static_cast<double>(i));
    const std::string svg = svg_line_chart({kHostile, kHostile, kHostile, {{kHostile, x, y}, {"other", {}, {}}}});
    CHECK(markup_problem(svg) == "");
    CHECK(svg.find("nan") == std::string::npos);
    CHECK(svg.find("inf") == std::string::npos);
    CHECK(svg.find("<script") == std::string::npos);
  }
  CHECK_THROWS_AS(svg_line_chart({"", "", "", {{"a", {1, 2}, {1}}}}), Error);
}

TEST_CASE("a long series is thinned and keeps its spike") {
  std::vector<double> x, y;
  for (int i = 0; i < 100'000; ++i) x.push_back(i), y.push_back(i == 77'777 ? 50.0 : 1.0 + 0.001 * (i % 7));
  y[5] = std::nan("");
  const auto keep = detail::thinned(y, 800);
  CHECK(keep.size() <= 802);
  CHECK(std::is_sorted(keep.begin(), keep.end()));
  CHECK(std::find(keep.begin(), keep.end(), std::size_t{77'777}) != keep.end());
  CHECK(keep.back() == y.size() - 1);
  CHECK(svg_line_chart({"t", "step", "", {{"a", x, y}}}).size() < 30'000);
}

TEST_CASE("only noise is smoothed, and a straight line stays straight") {
  std::vector<double> line, noise;
  for (int i = 0; i < 1000; ++i) line.push_back(3.0 * i), noise.push_back(3.0 * i + (i % 2 ? 500.0 : -500.0));
  CHECK(!detail::is_noisy(line));
  CHECK(detail::is_noisy(noise));
  const auto same = detail::smoothed(line);
  for (std::size_t i = 0; i < line.size(); ++i) CHECK(same[i] == doctest::Approx(line[i]));
  noise[500] = std::nan("");
  CHECK(std::isnan(detail::smoothed(noise)[500]));
  CHECK(std::abs(detail::smoothed(noise)[300] - 900) < 40);
}

TEST_CASE("a heat map has one titled cell per value") {
  const HeatMap map{
      kHostile, "task", "expert", "share", {"da", kHostile}, {"0", "1", "2"}, {1, 0, 2, std::nan(""), 0.5, 0}};
  const std::string svg = svg_heat_map(map);
  CHECK(markup_problem(svg) == "");
  CHECK(count(svg, "<title>") == 6);
  CHECK(count(svg, "class=\"none\"") == 1);
  CHECK(svg.find("<title>da, 2: 2</title>") != std::string::npos);
  CHECK(markup_problem(svg_heat_map({"empty", "", "", "", {}, {}, {}})) == "");
  CHECK_THROWS_AS(svg_heat_map({"bad", "", "", "", {"a"}, {"b"}, {}}), Error);
}

/// The x of every text of these classes, or its text.
std::vector<std::string> texts(const std::string& svg, const std::string& classes) {
  std::vector<std::string> out;
  const std::string start = "class=\"" + classes + "\">";
  for (std::size_t at = 0; (at = svg.find(start, at)) != std::string::npos; ++at)
    out.push_back(svg.substr(at + start.size(), svg.find('<', at) - at - start.size()));
  return out;
}
HeatMap map_of(std::size_t rows, std::size_t columns, double scale) {
  HeatMap map{"encoder layer 1", "direction", "expert", "times the fair share", {}, {}, {}};
  for (std::size_t r = 0; r < rows; ++r) map.rows.push_back("l" + std::to_string(r));
  for (std::size_t c = 0; c < columns; ++c) map.columns.push_back(std::to_string(c));
  for (std::size_t i = 0; i < rows * columns; ++i) map.values.push_back(scale * static_cast<double>(i % 7) / 3.0);
  return map;
}
TEST_CASE("cells hold numbers of two decimals that fit, or colour alone; heads and labels are not cut") {
  for (const std::size_t columns : {1, 4, 8, 12, 18, 32, 128})
    for (const double scale : {1e-3, 1.0, 16.0, 4e3}) {
      const HeatMap map = map_of(18, columns, scale);
      const detail::HeatMapLayout at(map);
      const std::string svg = svg_heat_map(map);
      CHECK(markup_problem(svg) == "");
      CHECK(at.left - 8 >= detail::label_width(map.row_label, 6.6));
      CHECK(at.left + at.cell_width * static_cast<double>(columns) <= at.width);
      for (const auto& head : map.columns) CHECK(detail::label_width(head, 6.6) < at.cell_width);
      const auto numbers = texts(svg, "mid");
      CHECK(at.numbers == !numbers.empty());
      for (const auto& number : numbers) {
        CHECK(detail::label_width(number, 7) + 4 <= at.cell_width);
        if (scale < 16) CHECK(number.find('.') + 3 == number.size());
      }
      CHECK(count(svg, "<title>") == map.values.size());
    }
  CHECK(detail::HeatMapLayout(map_of(18, 8, 1)).numbers);
  CHECK_FALSE(detail::HeatMapLayout(map_of(18, 32, 1)).numbers);
  HeatMap directions = map_of(4, 3, 1);
  directions.columns = {"eng_Latn", "zho_Hant", "\u4e2d\u6587\u4e2d\u6587\u4e2d\u6587"};
  CHECK(detail::HeatMapLayout(directions).upright);
  CHECK(svg_heat_map(directions).find("rotate(-90)") != std::string::npos);
}
TEST_CASE("a map and a tree are as wide as they are drawn: one size of text") {
  for (const std::string& svg :
       {svg_heat_map(map_of(3, 4, 1)), svg_tree("Likeness", "distance", {"a", "b"}, {{0, 1, 0.5}})}) {
    const std::size_t box = svg.find("viewBox=\"0 0 ") + 13;
    const std::string width = svg.substr(box, svg.find(' ', box) - box);
    CHECK(svg.find("min-width:" + width + "px;max-width:" + width + "px") != std::string::npos);
  }
}
TEST_CASE("the axis of values that are all the same") {
  CHECK(detail::axis_range(0, 0) == std::pair<double, double>{0, 1});
  CHECK(detail::axis_range(2, 2) == std::pair<double, double>{0, 2.5});
  CHECK(detail::axis_range(-2, -2) == std::pair<double, double>{-2.5, 0});
  CHECK(detail::axis_range(1, 1 + 1e-9).first == 0);
  const std::string svg = svg_line_chart({"Drop rate", "step", "", {{"layer 1", {1, 2, 3}, {0, 0, 0}}}});
  CHECK(texts(svg, "small end") == std::vector<std::string>{"0", "0.2", "0.4", "0.6", "0.8", "1"});
  CHECK(texts(svg_line_chart({"a", "step", "", {{"a", {7}, {1}}}}), "small mid") ==
        std::vector<std::string>{"6", "7", "8", "step"});
  for (const double far : {1.9e17, 1e99, 1e301}) {  // 1 more is the same number
    const std::string one = svg_line_chart({"a", "step", "", {{"a", {far}, {1}}}});
    CHECK(one.find("nan") == std::string::npos);
    CHECK(one.find("inf") == std::string::npos);
  }
  CHECK(detail::axis_numbers({0, 5e-4, 1e-3, 1.5e-3}) == std::vector<std::string>{"0", "5e-4", "1e-3", "1.5e-3"});
  CHECK(detail::small_number(-2.5e-12) == "-2.5e-12");
  for (const double low : {2.3, 1234.5, -7.0})
    for (const double width : {1e-3, 0.01, 0.5}) {
      const auto numbers = detail::axis_numbers(detail::axis_ticks(low, low + width, 6));
      CHECK(std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end());
    }
}
TEST_CASE("a run is called by its name, however it is given") {
  CHECK(run_name("/a/b/run") == "run");
  CHECK(run_name("/a/b/run/") == "run");
  CHECK(run_name("run/../other/.") == "other");
  CHECK(run_name(".") == fs::current_path().filename().string());
  CHECK(run_name("/") == "/");
}

TEST_CASE("numeric columns are aligned to the right, text follows its own direction") {
  HtmlReport page("t");
  page.table({{"name", "score", "empty"}, {{"da", "12.5", ""}, {"x 1 y", "-", ""}}});
  const std::string html = page.text();
  CHECK(count(html, "<th class=\"n\">") == 1);
  CHECK(count(html, "<td class=\"n\">") == 2);
  CHECK(count(html, "<td dir=\"auto\">") == 4);
  CHECK_THROWS_AS(page.table({{"a", "b"}, {{"1"}}}), Error);
}

/// The page of a run directory with the given files, checked for form, for escapes and for outside references.
std::string report(const std::vector<std::pair<std::string, std::string>>& files) {
  ScratchDirectory scratch;
  for (const auto& [name, text] : files) atomic_write(scratch.path / name, text);
  write_training_report(scratch.path, scratch.path / "report.html");
  const std::string html = read_file(scratch.path / "report.html");
  CHECK(markup_problem(html) == "");
  CHECK(!find_invalid_utf8(html));
  for (const char* part : {"http://", "https://", "//", "src=", "@import", "url(", "<script", "<link", "<img",
                           "<iframe", "javascript:", "onload", "nan\"", "inf\""}) {
    INFO(part);
    CHECK(html.find(part) == std::string::npos);
  }
  return html;
}

TEST_CASE("a whole run gives every section") {
  std::string log;
  for (int step = 1; step <= 50; ++step) {
    Json layers = Json::array();
    for (const char* stack : {"decoder", "encoder"})
      layers.push_back({{"stack", stack},
                        {"layer", 1},
                        {"router", "task"},
                        {"load", {0.7, 0.3, 0.0}},
                        {"drop_rate", 0.1},
                        {"entropy", 0.9}});
    log += Json{{"kind", "train"},
                {"step", step},
                {"seconds", step * 2.0},
                {"tokens", step * 1000},
                {"tokens_per_second", 500.0},
                {"loss", 5.0 / step},
                {"nll", 4.0 / step},
                {"losses", {{"balance", 1.1}, {"z", 0.2}}},
                {"learning_rate", 1e-3},
                {"grad_norm", 1.0},
                {"skipped", 0},
                {"layers", layers}}
               .dump() +
           "\n";
  }
  log += R"({"kind":"validation","step":50,"loss":2.5,"bleu":21.5,"chrf":44,)"
         R"("directions":{"en-da":{"bleu":20,"chrf":40,"loss":2}}})"
         "\n";
  log += R"({"kind":"usage","step":50,"stack":"encoder","layer":1,"router":"task","tasks":["da","en"],)"
         R"("counts":[[3,1,0],[0,0,0]]})"
         "\n";
  const std::string html = report({
      {"log.jsonl", log},
      {"scores.json", R"({"signature":"sig|13a","directions":[{"direction":"en-da","bleu":30,"chrf":50,)"
                      R"("copy_bleu":1.5,"copy_chrf":20,"segments":7}],)"
                      R"("averages":{"xx2en":{"bleu":27.25,"chrf":51}}})"},
      {"samples.json",
       R"([{"source":"A < B","source_language":"en","translations":[{"language":"da","text":"B > A"}]}])"},
      {"settings.json", R"({"model":{"layers":6},"name":"x","list":[1,2]})"},
  });
  for (const char* part :
       {"Loss", "Speed", "Router losses", "Drop rate, encoder", "Router entropy, decoder", "Load by layer",
        "encoder layer 1, router: task, step 50", "sig|13a", "28.50", "27.25", "A &lt; B", "B &gt; A", "model.layers",
        "[1,2]", "best BLEU", "21.50 at step 50", "da, 0: 2.25", "en, 0: none"}) {
    INFO(part);
    CHECK(html.find(part) != std::string::npos);
  }
  CHECK(html.find("<td class=\"n\">2.10</td><td class=\"n\">0.00</td><td class=\"n\">1</td>") != std::string::npos);
}

TEST_CASE("corpus and machine are those of the last start; what is not there is left out, what is not known is none") {
  const std::string start =
      R"({"kind":"start","step":0,"version":"0.1.0","parameters":12345,"directions":["en-da","da-en"],)"
      R"("host":"h1","left_out":{"empty":3},"threads":null})"
      "\n";
  std::string later = start;
  later.replace(later.find("h1"), 2, "h2");
  const std::string html =
      report({{"log.jsonl", start + later +
                                R"({"kind":"validation","step":5,"loss":null,"bleu":null,"chrf":null,)"
                                R"("directions":{"en-da":{"bleu":null,"chrf":null,"loss":null}}})"
                                "\n"},
              {"settings.json", R"({"corpus":"c/books"})"}});
  for (const char* part : {"Corpus and machine", "<td dir=\"auto\">h2</td>", "en-da, da-en", "left out.empty", "12345",
                           "c/books", "2, the last is shown", "<dt>best validation loss</dt><dd>none</dd>",
                           "<dt>best BLEU</dt><dd>none</dd>", "<td class=\"n\">none</td>"}) {
    INFO(part);
    CHECK(html.find(part) != std::string::npos);
  }
  CHECK(html.find("<td dir=\"auto\">h1</td>") == std::string::npos);
  CHECK(html.find("threads") == std::string::npos);
  CHECK(html.find("0.00") == std::string::npos);
  CHECK(report({{"log.jsonl", ""}}).find("Corpus and machine") == std::string::npos);
}

TEST_CASE("warnings, resumes with what they changed, and a divergence are on the page") {
  const std::string log = R"({"kind":"train","step":5,"loss":3.5,"seconds":1,"tokens":50,"skipped":5})"
                          "\n"
                          R"({"kind":"resume","step":5,"changed":{"learning_rate":{"before":0.001,"now":1e30}}})"
                          "\n"
                          R"({"kind":"warning","step":6,"text":"step 6 is <skipped>"})"
                          "\n"
                          R"({"kind":"diverged","step":25,"text":"20 steps in a row were skipped"})"
                          "\n";
  const std::string html = report({{"log.jsonl", log}});
  for (const char* part : {"resumed with learning_rate: 0.001, now 1e+30", "warning: step 6 is &lt;skipped&gt;",
                           "20 steps in a row were skipped", "<dt>diverged</dt><dd>at step 25</dd>"}) {
    INFO(part);
    CHECK(html.find(part) != std::string::npos);
  }
  const std::string went_on = report({{"log.jsonl", log + R"({"kind":"resume","step":5,"changed":{}})"
                                                          "\n"}});
  CHECK(went_on.find("<dt>diverged</dt>") == std::string::npos);
  CHECK(went_on.find("resumed, nothing changed") != std::string::npos);
  CHECK(report({{"log.jsonl", ""}}).find("<dt>log</dt><dd>without a record</dd>") != std::string::npos);
}

TEST_CASE("an empty, damaged or hostile log still gives a page") {
  CHECK(report({{"log.jsonl", ""}}).find("Training report") != std::string::npos);
  const std::string hostile = Json(escape_xml(kHostile)).dump();
  const std::string raw = R"("<script>alert(1)</script>&\"'")";
  std::string log =
      "garbage\n[]\n{\"kind\":7}\n{\"kind\":\"train\"}\n{\"kind\":\"train\",\"step\":\"x\",\"loss\":null,\"losses\":3,"
      "\"layers\":[1,{}]}\n";
  log += R"({"kind":"train","step":1,"loss":"high","losses":{)" + raw + R"(:1},"layers":[{"stack":)" + raw +
         R"(,"router":)" + raw +
         R"(,"layer":1e300,"load":[null,"a",1]}]})"
         "\n";
  log += R"({"kind":"usage","step":1,"stack":)" + raw + R"(,"layer":-1,"tasks":[)" + raw +
         R"(,3],"counts":[[1,null],[0,1]]})"
         "\n";
  log += R"({"kind":"usage","step":1,"tasks":["a"],"counts":[[1],[2]]})"
         "\n";
  log += R"({"kind":"usage","step":1,"tasks":["a","b"],"counts":[[1],[2,3]]})"
         "\n";
  log += R"({"kind":"validation","step":1,"loss":{},"directions":{)" + raw +
         R"(:5}})"
         "\n";
  log += "{\"kind\":\"train\",\"st";
  const std::string html =
      report({{"log.jsonl", log},
              {"scores.json", R"({"signature":)" + raw + R"(,"directions":[1,{"direction":)" + raw +
                                  "}],\"averages\":{" + raw + ":1}}"},
              {"samples.json",
               "[1,{\"source\":" + raw + ",\"translations\":[{\"language\":" + raw + ",\"text\":" + raw + "}]}]"},
              {"settings.json", "{" + raw + ":" + raw + ",\"e\":{}}"}});
  CHECK(html.find("damaged log lines") != std::string::npos);
  CHECK(html.find("alert(1)") != std::string::npos);
  CHECK(count(html, "<script") == 0);
}

TEST_CASE("an absent log and broken side files are errors that name the file") {
  ScratchDirectory scratch;
  const fs::path out = scratch.path / "report.html";
  CHECK_THROWS_WITH_AS(write_training_report(scratch.path, out), doctest::Contains("log.jsonl"), FileError);
  atomic_write(scratch.path / "log.jsonl", "");
  atomic_write(scratch.path / "scores.json", "{");
  CHECK_THROWS_WITH_AS(write_training_report(scratch.path, out), doctest::Contains("scores.json"), FileError);
  CHECK(!fs::exists(out));
}

}  // namespace
