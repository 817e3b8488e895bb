// sparsemoe-nmt -- a mixture-of-experts translator from text to report: corpus, train, translate, evaluate, report.
// Example:  sparsemoe-nmt corpus --out corpus --languages da,it
//           sparsemoe-nmt train --corpus corpus --out run --minutes 10
//           echo "a small text editor" | sparsemoe-nmt translate --model run --to da
// Read next: settings.hpp for the knobs, train.hpp for the loop, translator_of.hpp for the model behind it.
#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "benchmark/benchmark.hpp"
#include "commands.hpp"
#include "distill_command.hpp"
#include "distill_report.hpp"
#include "extract_command.hpp"
#include "option_groups.hpp"
#include "routing_command.hpp"
#include "sparsemoe/io/options.hpp"
#include "sparsemoe/io/run_main.hpp"
#include "study_command.hpp"
#include "tools/corpus/command.hpp"
#include "train.hpp"

namespace {

/// With --resume, the run's own settings are what the command line starts from.
void preset_from_run(int argc, char** argv, nmt::TrainSettings& settings, nmt::DistillSettings& distill) {
  std::string out;
  bool resume = false;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word == "--resume") resume = true;
    if (word == "--out" && i + 1 < argc) out = argv[i + 1];
    if (word.starts_with("--out=")) out = word.substr(6);
  }
  const nmt::fs::path saved = nmt::fs::path(out) / "settings.json", teacher = nmt::fs::path(out) / nmt::kDistillFile;
  if (!resume || out.empty() || !nmt::fs::exists(saved)) return;
  sparsemoe::load_config(saved, settings);
  if (!nmt::fs::exists(teacher)) return;
  nmt::DistillRecord record;
  sparsemoe::load_config(teacher, record);
  distill = {settings, record.options};
  distill.distill.teacher = record.checkpoint;  // a teacher that went on training has newer ones
}

/// Of translate and evaluate.
void add_expert_options(CLI::App* command, nmt::ExpertOptions& o) {
  command->add_flag("--int8-experts", o.int8,
                    "Hold expert matrices in 8 bits with a scale an output channel: a quarter of the memory of fp32");
  command->add_flag("--mapped-experts", o.mapped,
                    "Leave expert matrices in the checkpoint; the pages that are used are read as they are needed");
}

int program(int argc, char** argv) {
  CLI::App app("sparsemoe-nmt: a mixture-of-experts translator, from text to report", "sparsemoe-nmt");
  app.require_subcommand(1);
  nmt::add_corpus_command(app);

  // In the order of work, which is the order of --help.
  nmt::TrainSettings settings;
  bool resume = false;
  CLI::App* train = app.add_subcommand("train", "Train a model on a corpus");
  nmt::DistillSettings distill_settings;
  preset_from_run(argc, argv, settings, distill_settings);
  sparsemoe::add_options(*train, settings);
  train->add_flag("--resume", resume, "Go on with the run in --out from its newest checkpoint");
  nmt::group_options(*train);

  nmt::EvaluateOptions e;
  CLI::App* evaluate = app.add_subcommand("evaluate", "BLEU and chrF of a model on a split, beside copying the source");
  evaluate->add_option("--model", e.model, "Run or checkpoint")->required();
  evaluate->add_option("--corpus", e.corpus, "Corpus directory")->required();
  evaluate->add_option("--split", e.split, "train, dev or test")->capture_default_str();
  evaluate->add_option("--languages", e.languages, "Only these languages (beside the first)")->delimiter(',');
  evaluate->add_option("--directions", e.directions, "both, en2xx or xx2en")
      ->capture_default_str()
      ->check(CLI::IsMember({"both", "en2xx", "xx2en"}));
  evaluate->add_option("--kinds", e.kinds, "Kinds of text; default: what the run was trained on");
  evaluate->add_option("--rows", e.rows, "Rows a direction, evenly spread; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 100000000));
  evaluate
      ->add_option("--max-length", e.max_length,
                   "Most tokens of a side; default: twice what the run was trained on, at least 100")
      ->check(CLI::Range(4, 100000));
  evaluate->add_option("--beam", e.beam, "Beams; 1: greedy")->capture_default_str()->check(CLI::Range(1, 64));
  evaluate->add_option("--high", e.high, "Training pairs above which a language counts as high-resource")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000000000));
  evaluate->add_option("--scores", e.scores, "Also write the scores to this JSON file");
  evaluate->add_option("--threads", e.threads, "Threads; 0: all")->capture_default_str()->check(CLI::Range(0, 1024));
  add_expert_options(evaluate, e.experts);
  evaluate->add_flag("--json", e.json, "Print JSON");

  nmt::TranslateOptions t;
  CLI::App* translate = app.add_subcommand("translate", "Translate standard input line by line");
  translate->add_option("--model", t.model, "Run or checkpoint")->required();
  translate->add_option("--from", t.from, "Language of the input")->capture_default_str();
  translate->add_option("--to", t.to, "Language of the output")->required();
  translate->add_option("--batch", t.batch, "Lines decoded together")
      ->capture_default_str()
      ->check(CLI::Range(1, 4096));
  translate->add_option("--max-length", t.max_length, "Most tokens of an output; default: 256")
      ->check(CLI::Range(1, 100000));
  translate
      ->add_option("--max-source", t.max_source,
                   "Most tokens of an input; longer ones are cut, with a warning; default: 1024 (of Hugging Face "
                   "checkpoints: any)")
      ->check(CLI::Range(8, 100000));
  translate->add_option("--beam", t.search.beam, "Beams; 1: greedy, the default")->check(CLI::Range(1, 64));
  translate->add_option("--nbest", t.search.nbest, "Translations a line, as rows: line number, score, text; default: 1")
      ->check(CLI::Range(1, 64));
  translate
      ->add_option("--length-penalty", t.search.length_penalty,
                   "A score is the summed log-probability over (number of tokens)^this; default: 1")
      ->check(CLI::Range(-10.0, 10.0));
  translate->add_option("--early-stopping", t.search.stopping, generation::stopping_help)
      ->transform(CLI::CheckedTransformer(generation::stopping_names));
  translate
      ->add_option("--no-repeat-ngram", t.search.no_repeat_ngram,
                   "No n-gram of so many tokens twice in a translation; 0, the default: any")
      ->check(CLI::Range(0, 1000));
  add_expert_options(translate, t.experts);
  translate->add_flag("--json", t.json, "A row of JSON a line: line, source, and outputs with text, score and ended");
  translate->add_flag("--jsonl", t.jsonl, "Input too is a row of JSON a line: {\"text\": \"...\"}");
  translate->add_flag("--strict", t.strict,
                      "Bytes that are no UTF-8 are an error; by default they are replaced, with a warning");
  translate->add_option("--threads", t.threads, "Threads; 0: all")->capture_default_str()->check(CLI::Range(0, 1024));

  nmt::SampleOptions p;
  CLI::App* samples =
      app.add_subcommand("samples", "Translate a few lines of standard input into several languages, side by side");
  samples->add_option("--model", p.model, "Run or checkpoint")->required();
  samples->add_option("--from", p.from, "Language of the input")->capture_default_str();
  samples->add_option("--to", p.to, "Languages of the output")->delimiter(',')->required();
  samples->add_option("--out", p.out, "Also write them to this JSON file, for the report (RUN/samples.json)");
  samples->add_option("--threads", p.threads, "Threads; 0: all")->capture_default_str()->check(CLI::Range(0, 1024));

  nmt::RoutingOptions g;
  CLI::App* routing = app.add_subcommand(
      "routing", "Which experts a model uses for which direction: CSV, JSON and a page of heat maps");
  routing->add_option("--model", g.model, "Run or checkpoint")->required();
  routing->add_option("--corpus", g.corpus, "Corpus directory")->required();
  routing->add_option("--out", g.out, "Directory for routing.csv, routing.json and routing.html")->required();
  routing->add_option("--split", g.split, "train, dev or test")->capture_default_str();
  routing->add_option("--languages", g.languages, "Only these languages (beside the first)")->delimiter(',');
  routing->add_option("--directions", g.directions, "both, en2xx or xx2en")
      ->capture_default_str()
      ->check(CLI::IsMember({"both", "en2xx", "xx2en"}));
  routing->add_option("--kinds", g.kinds, "Kinds of text; default: what the run was trained on");
  routing->add_option("--rows", g.rows, "Rows a direction, evenly spread; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 100000000));
  routing->add_option("--max-length", g.max_length, "Most tokens of a side; default: as for evaluate")
      ->check(CLI::Range(4, 100000));
  routing->add_flag("--reference", g.reference, "Read the reference translations instead of decoding");
  routing->add_option("--threads", g.threads, "Threads; 0: all")->capture_default_str()->check(CLI::Range(0, 1024));

  std::string run, out;
  CLI::App* report = app.add_subcommand("report", "One HTML file of a run, which opens offline");
  report->add_option("--run", run, "Run directory")->required();
  report->add_option("--out", out, "HTML file to write")->required();

  nmt::ExtractOptions x;
  CLI::App* extract = app.add_subcommand("extract", "Cut the sub-network of some tasks out of a task-routed model");
  extract->add_option("--model", x.model, "Run or checkpoint")->required();
  extract->add_option("--task", x.tasks, "Tasks to keep, as config.json names them: da, or en-da for pairs")
      ->delimiter(',')
      ->required();
  extract->add_option("--out", x.out, "Directory of the sub-network, a checkpoint of its own")->required();
  extract->add_flag("--dense", x.dense, "Fold the experts of the one task into dense layers");
  extract->add_option("--prune-by-usage", x.prune,
                      "Also keep only the most used experts of token-routed layers: "
                      "so many (4), or those with this share of the choices (0.95)");
  extract->add_option("--corpus", x.corpus, "Corpus directory on which use is measured");
  extract->add_option("--split", x.split, "Split of it: train, dev or test")->capture_default_str();
  extract->add_option("--kinds", x.kinds, "Kinds of text; default: what the run was trained on");
  extract->add_option("--rows", x.rows, "Rows a direction, evenly spread; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 100000000));
  extract->add_option("--max-length", x.max_length, "Most tokens of a side; default: as for evaluate")
      ->check(CLI::Range(4, 100000));
  extract->add_option("--threads", x.threads, "Threads; 0: all")->capture_default_str()->check(CLI::Range(0, 1024));
  extract->add_flag("--json", x.json, "Print JSON");

  CLI::App* distill = app.add_subcommand(
      "distill", "Train a dense student on what a mixture-of-experts teacher says; its sizes are the teacher's");
  sparsemoe::add_options(*distill, distill_settings);
  distill->add_flag("--resume", resume, "Go on with the run in --out from its newest checkpoint");
  nmt::group_options(*distill);

  nmt::DistillReportOptions d;
  CLI::App* distill_report = app.add_subcommand(
      "distill-report", "What of a teacher's gain over a dense model its students keep, beside its sub-networks");
  distill_report->add_option("--dense", d.dense, "The dense model: run or checkpoint")->required();
  distill_report->add_option("--teacher", d.teacher, "The teacher: run or checkpoint")->required();
  distill_report->add_option("--student", d.students, "Students, a line each")->delimiter(',');
  distill_report->add_option("--extracted", d.extracted, "Sub-networks of the teacher, one line")->delimiter(',');
  distill_report->add_option("--corpus", d.corpus, "Corpus directory")->required();
  distill_report->add_option("--out", d.out, "Directory for distill.json and distill.md")->required();
  distill_report->add_option("--split", d.split, "train, dev or test")->capture_default_str();
  distill_report->add_option("--languages", d.languages, "Only these languages (beside the first)")->delimiter(',');
  distill_report->add_option("--directions", d.directions, "both, en2xx or xx2en")
      ->capture_default_str()
      ->check(CLI::IsMember({"both", "en2xx", "xx2en"}));
  distill_report->add_option("--kinds", d.kinds, "Kinds of text; default: what the teacher was trained on");
  distill_report->add_option("--rows", d.rows, "Rows a direction, evenly spread; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 100000000));
  distill_report->add_option("--max-length", d.max_length, "Most tokens of a side; default: as for evaluate")
      ->check(CLI::Range(4, 100000));
  distill_report->add_option("--beam", d.beam, "Beams; 1: greedy")->capture_default_str()->check(CLI::Range(1, 64));
  distill_report->add_option("--threads", d.threads, "Threads; 0: all")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));

  nmt::StudySettings study_settings;
  CLI::App* study = app.add_subcommand(
      "study", "Train, score, extract and time the routing strategies of the task-MoE paper's Table 1");
  sparsemoe::add_options(*study, study_settings);

  nmt::BenchmarkSettings benchmark_settings;
  CLI::App* benchmark = app.add_subcommand(
      "benchmark", "Decoding speed of token-routed, task-routed, extracted and dense models, by batch size");
  sparsemoe::add_options(*benchmark, benchmark_settings);

  if (const auto status = sparsemoe::parse_arguments(app, argc, argv)) return *status;
  if (train->parsed()) return nmt::TrainingRun(settings, resume).run();
  if (distill->parsed()) return nmt::DistillCommand(distill_settings, resume).run();
  if (distill_report->parsed()) return nmt::DistillReport(d).run();
  if (translate->parsed()) return nmt::translate(t);
  if (samples->parsed()) return nmt::samples(p);
  if (evaluate->parsed()) return nmt::evaluate(e);
  if (extract->parsed()) return nmt::Extraction(x).run();
  if (study->parsed()) return nmt::Study(study_settings).run();
  if (benchmark->parsed()) return nmt::Benchmark(benchmark_settings).run();
  if (routing->parsed()) return nmt::routing(g);
  if (report->parsed()) sparsemoe::write_training_report(run, out);
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return sparsemoe::run_main("sparsemoe-nmt", argc, argv, program); }
