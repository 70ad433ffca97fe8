"""NeuronMerge (Gu et al., ACL 2025): its numbers by figure and table; scores are of GSM8K, HumanEval and WMT."""

from nmerge_core.reports.published import table

FIGURE_8 = table("""
models | mean cosine with the base
fine-tuned on code | 0.999
continued pre-training (Qwen2.5-Coder) | 0.4
""")
FIGURE_10 = table("""
classified by | same category, of 100 neurons
Qwen2.5-72B-Instruct and the texts' categories | 72
""")
TABLE_1 = table("""
method | math & coding | math & translate | coding & translate | math & coding & translate
fine-tuned model | 71.48 | 81.43 | 77.02 | 76.64
task arithmetic | 69.73 | 81.71 | 74.81 | 75.36
DARE | 69.84 | 82.31 | 75.11 | 76.10
NeuronMerge₁ | 71.12 | 82.62 | 75.44 | 76.82
SubModule Linearity | 69.18 | 82.19 | 74.77 | 75.42
NeuronMerge₂ | 70.80 | 82.70 | 74.90 | 76.21
""")
TABLE_2 = table("""
method | math & coding | math & translate | coding & translate | math & coding & translate
fine-tuned model | 47.71 | 71.55 | 62.25 | 60.50
task arithmetic | 47.41 | 70.45 | 61.93 | 59.04
DARE | 46.81 | 70.27 | 61.96 | 58.26
NeuronMerge₁ | 47.24 | 70.39 | 62.89 | 59.94
SubModule Linearity | 47.13 | 70.43 | 62.65 | 59.37
NeuronMerge₂ | 47.73 | 70.69 | 63.00 | 59.88
""")
TABLE_3 = table("""
math neurons | code: choose model | code: merge | code: drop
choose model | 70.42 | 69.95 | 69.94
merge | 70.21 | 69.89 | 70.63
drop | 70.52 | 70.64 | 70.80
""")
TABLE_4 = table("""
method | math | coding | mean
task arithmetic | 78.77 | 61.59 | 69.73
random groups | 75.73 | 60.98 | 68.36
NeuronMerge₂ | 78.80 | 62.80 | 70.80
""")
TABLE_5 = table("""
method | merged | math | coding | translate | mean
fine-tuned model | math & coding | 75.89 | 67.07 | | 71.48
task arithmetic | math & coding | 78.77 | 61.59 | | 69.73
DARE | math & coding | 77.48 | 62.20 | | 69.84
NeuronMerge₁ | math & coding | 78.95 | 63.29 | | 71.12
SubModule Linearity | math & coding | 77.14 | 61.22 | | 69.18
NeuronMerge₂ | math & coding | 78.80 | 62.80 | | 70.80
fine-tuned model | math & translate | 75.89 | | 86.96 | 81.43
task arithmetic | math & translate | 76.65 | | 86.77 | 81.71
DARE | math & translate | 77.79 | | 86.82 | 82.31
NeuronMerge₁ | math & translate | 78.73 | | 86.51 | 82.62
SubModule Linearity | math & translate | 77.57 | | 86.80 | 82.19
NeuronMerge₂ | math & translate | 78.89 | | 86.57 | 82.70
fine-tuned model | coding & translate | | 67.07 | 86.96 | 77.02
task arithmetic | coding & translate | | 62.80 | 86.62 | 74.81
DARE | coding & translate | | 63.41 | 86.81 | 75.11
NeuronMerge₁ | coding & translate | | 64.26 | 86.61 | 75.44
SubModule Linearity | coding & translate | | 62.68 | 86.86 | 74.77
NeuronMerge₂ | coding & translate | | 63.17 | 86.63 | 74.90
fine-tuned model | all three | 75.89 | 67.07 | 86.96 | 76.64
task arithmetic | all three | 78.84 | 60.97 | 86.28 | 75.36
DARE | all three | 78.17 | 63.41 | 86.72 | 76.10
NeuronMerge₁ | all three | 79.91 | 63.79 | 86.76 | 76.82
SubModule Linearity | all three | 79.53 | 60.73 | 86.00 | 75.42
NeuronMerge₂ | all three | 79.19 | 62.67 | 86.77 | 76.21
""")
TABLE_6 = table("""
method | merged | math | coding | translate | mean
fine-tuned model | math & coding | 57.01 | 38.41 | | 47.71
task arithmetic | math & coding | 55.19 | 39.63 | | 47.41
DARE | math & coding | 53.37 | 40.24 | | 46.81
NeuronMerge₁ | math & coding | 52.77 | 41.70 | | 47.24
SubModule Linearity | math & coding | 55.37 | 38.90 | | 47.13
NeuronMerge₂ | math & coding | 54.50 | 40.97 | | 47.73
fine-tuned model | math & translate | 57.01 | | 86.09 | 71.55
task arithmetic | math & translate | 55.04 | | 85.85 | 70.45
DARE | math & translate | 54.73 | | 85.82 | 85.70
NeuronMerge₁ | math & translate | 55.10 | | 85.68 | 70.39
SubModule Linearity | math & translate | 55.02 | | 85.84 | 70.43
NeuronMerge₂ | math & translate | 55.68 | | 85.71 | 70.69
fine-tuned model | coding & translate | | 38.41 | 86.09 | 62.25
task arithmetic | coding & translate | | 37.80 | 86.06 | 61.93
DARE | coding & translate | | 37.80 | 86.12 | 61.96
NeuronMerge₁ | coding & translate | | 39.75 | 86.04 | 62.89
SubModule Linearity | coding & translate | | 39.26 | 86.04 | 62.65
NeuronMerge₂ | coding & translate | | 40.00 | 86.01 | 63.00
fine-tuned model | all three | 57.01 | 38.41 | 86.09 | 60.50
task arithmetic | all three | 50.72 | 40.85 | 85.54 | 59.04
DARE | all three | 48.29 | 40.85 | 85.63 | 58.26
NeuronMerge₁ | all three | 50.99 | 42.57 | 86.27 | 59.94
SubModule Linearity | all three | 50.52 | 42.68 | 84.90 | 59.37
NeuronMerge₂ | all three | 50.93 | 42.88 | 85.84 | 59.88
""")
TABLE_7 = table("""
method | Qwen2.5-14B math | coding | mean | Llama2-13B math | coding (Llama2) | mean (Llama2)
fine-tuned model | 77.71 | 67.07 | 72.39 | 47.91 | 20.12 | 34.02
task arithmetic | 83.55 | 65.24 | 74.40 | 45.41 | 23.78 | 34.60
DARE | 84.15 | 64.63 | 74.39 | 41.55 | 24.39 | 32.97
NeuronMerge₁ | 84.99 | 65.65 | 75.32 | 43.05 | 26.95 | 35.00
SubModule Linearity | 83.52 | 65.65 | 74.59 | 46.85 | 23.37 | 35.11
NeuronMerge₂ | 83.67 | 67.07 | 75.37 | 45.17 | 25.12 | 35.15
""")
TABLE_8 = table("""
method | base | math & code | math & translate | coding & translate | all three
task arithmetic, α | Qwen2.5-7B | 0.4 | 0.6 | 0.6 | 0.5
DARE, share dropped | Qwen2.5-7B | 0.6 | 0.7 | 0.6 | 0.8
task arithmetic, α | Llama3.1-8B | 0.5 | 0.6 | 0.6 | 0.5
DARE, share dropped | Llama3.1-8B | 0.6 | 0.6 | 0.6 | 0.7
""")
TABLE_9 = table("""
k | mean
10 | 70.80
20 | 70.79
30 | 70.87
40 | 70.70
""")
TABLE_10 = table("""
method | math & coding | math & translate | coding & translate
task arithmetic | 69.73 | 81.71 | 74.81
task arithmetic + NeuronMerge | 70.62 | 82.78 | 75.15
""")
TABLE_11 = table("""
method | attention | General neurons | mean
task arithmetic | | | 69.73
DARE | | | 69.84
SubModule Linearity | | | 69.18
NeuronMerge₁ | DARE | SubLin | 71.12
NeuronMerge₂ | SubLin | SubLin | 70.80
experiment 1 | DARE | task arithmetic | 71.05
experiment 2 | SubLin | task arithmetic | 71.14
experiment 3 | DARE | DARE | 71.54
experiment 4 | SubLin | DARE | 70.92
""")
TABLE_12 = table("""
math neurons | code: choose model | code: merge | code: drop
choose model | 44.71 | 45.17 | 46.66
merge | 44.01 | 44.40 | 45.64
drop | 44.00 | 45.45 | 47.73
""")
TABLE_13 = table("""
m | math | coding | mean
1 | 78.80 | 62.80 | 70.80
2 | 77.85 | 62.32 | 70.08
3 | 77.15 | 62.68 | 69.92
4 | 77.56 | 63.29 | 70.42
5 | 77.05 | 63.41 | 70.23
6 | 76.67 | 63.29 | 69.98
7 | 76.56 | 64.26 | 70.41
8 | 76.66 | 63.65 | 70.16
""")
TABLE_14 = table("""
used for | general | math | code | translation
classifying neurons | RedPajama CommonCrawl | Proof-file-2 | Python of StarCoder | WMT17–WMT20
tuning | | GSM8K (train) | CodeAlpaca (train) | WMT17–WMT20
testing | | GSM8K (test) | HumanEval (test) | WMT22
""")
TABLE_15 = table("""
method | math | coding | mean
fine-tuned model | 75.89 | 67.07 | 71.48
task arithmetic | 78.77 | 61.59 | 69.73
TIES-Merging | 77.18 | 62.80 | 69.99
PCB-Merging | 76.88 | 63.41 | 70.15
DARE | 77.48 | 62.20 | 69.84
NeuronMerge₁ | 78.95 | 63.29 | 71.12
SubModule Linearity | 77.14 | 61.22 | 69.18
NeuronMerge₂ | 78.80 | 62.80 | 70.80
""")
TABLE_16 = table("""
method | classifying, s | one merge, s | settings | all, s | mean | gain | gain / normalised time
task arithmetic | 0 | 120 | 9 | 1080 | 81.71 | |
TIES-Merging | 0 | 1020 | 4 | 4080 | 82.29 | 0.58 | 0.154
DARE | 0 | 255 | 4 | 1020 | 82.31 | 0.60 | 0.635
NeuronMerge₁ | 65 | 300 | 4 | 1265 | 82.62 | 0.91 | 0.777
SubModule Linearity | 0 | 375 | 1 | 375 | 82.19 | 0.48 | 1.382
NeuronMerge₂ | 65 | 375 | 1 | 440 | 82.70 | 0.99 | 2.43
""")
TABLE_17 = table("""
method | classifying, s | one merge, s | settings | all, s | mean | gain | gain / normalised time
task arithmetic | 0 | 120 | 9 | 1080 | 69.73 | |
TIES-Merging | 0 | 1020 | 4 | 4080 | 69.99 | 0.26 | 0.069
DARE | 0 | 255 | 4 | 1020 | 69.84 | 0.11 | 0.116
NeuronMerge₁ | 65 | 300 | 4 | 1265 | 71.12 | 1.39 | 1.187
SubModule Linearity | 0 | 375 | 1 | 375 | 69.18 | -0.55 | -1.584
NeuronMerge₂ | 65 | 375 | 1 | 440 | 70.80 | 1.07 | 2.626
""")
