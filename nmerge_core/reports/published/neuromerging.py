"""NeuroMerging (EMNLP 2025): its numbers by figure and table."""

from nmerge_core.reports.published import table

TABLE_1 = table("""
method | scale | granularity
Fisher merging | Fisher matrix | parameter
RegMean | inner product matrix | parameter
task arithmetic | uniform | task
TIES-Merging | uniform | parameter
DARE | 1/(1 − p) | parameter
LoraHub | evolutionary search | task
AdaMerging | unsupervised optimisation | layer
PCB-Merging | balancing matrix | parameter
NeuroMerging | L1 norm | neuron
""")
FIGURE_1 = TABLE_6 = table("""
T5-Large | in-domain | out-domain | all
fine-tuned | 88.0 | 53.8 | 58.7
keep orthogonal | 88.0 | 53.9 | 58.8
keep parallel | 52.7 | 51.8 | 51.9
""")
TABLE_2 = table("""
method | validation | mean | paws | qasc | quartz | story_cloze | wiki_qa | winogrande | wsc
zero-shot | | 53.1 | 58.2 | 54.2 | 54.1 | 54.3 | 70.9 | 49.2 | 63.9
fine-tuned | | 88.0 | 94.4 | 97.1 | 85.3 | 91.0 | 95.7 | 71.6 | 80.6
averaging | no | 51.6 | 59.2 | 26.3 | 69.6 | 53.8 | 67.3 | 49.1 | 36.1
task arithmetic | no | 59.7 | 60.9 | 31.7 | 57.8 | 73.0 | 73.5 | 55.7 | 65.3
TIES-Merging | no | 76.7 | 80.8 | 92.4 | 77.7 | 81.9 | 78.4 | 61.9 | 63.9
PCB-Merging | no | 76.9 | 82.9 | 93.2 | 79.0 | 84.4 | 75.6 | 63.5 | 59.7
NeuroMerging | no | 77.6 | 81.1 | 94.3 | 81.6 | 84.7 | 81.2 | 56.7 | 83.9
task arithmetic | yes | 74.6 | 72.7 | 91.3 | 76.4 | 85.6 | 74.4 | 61.0 | 61.1
TIES-Merging | yes | 79.5 | 82.6 | 94.9 | 72.8 | 87.4 | 85.2 | 66.6 | 66.7
NeuroMerging | yes | 82.2 | 86.4 | 94.3 | 75.9 | 87.9 | 91.2 | 65.9 | 73.6
""")
TABLE_3 = table("""
model | CMMLU | GSM8K | HumanEval | mean
Chinese | 38.6 | 2.3 | 13.4 | 18.1
math | 31.2 | 65.6 | 0.0 | 32.3
code | 33.3 | 0.0 | 17.1 | 16.8
averaging | 35.6 | 48.5 | 6.7 | 30.3
task arithmetic | 35.4 | 46.1 | 9.8 | 30.4
TIES-Merging | 36.5 | 53.4 | 12.8 | 34.3
PCB-Merging | 36.4 | 52.3 | 16.5 | 35.1
PCB-Merging + ES | 36.4 | 53.1 | 16.5 | 35.3
NeuroMerging | 36.1 | 57.2 | 14.6 | 36.0
""")
TABLE_4 = table("""
method | validation | ViT-B/32 mean | ViT-L/14 mean
individual | | 90.5 | 94.2
averaging | no | 65.8 | 79.6
task arithmetic | no | 60.4 | 83.3
TIES-Merging | no | 72.4 | 86.0
PCB-Merging | no | 75.9 | 86.9
NeuroMerging | no | 76.4 | 87.9
Fisher merging | yes | 68.3 | 82.2
RegMean | yes | 71.8 | 83.7
task arithmetic | yes | 70.1 | 84.5
TIES-Merging | yes | 73.6 | 86.0
PCB-Merging | yes | 76.3 | 87.5
NeuroMerging | yes | 76.5 | 88.3
""")
TABLE_5 = table("""
merge function | mean
elect + mean | 82.2
elect + sum | 79.6
mean | 79.7
sum | 79.8
""")
FIGURE_4 = table("""
finding | number
best λ2 (r = 0.1) | 3.6
λ1 tried | 0 to 1
λ2 tried | 3 to 4
""")
FIGURE_5 = table("""
parameters | T5-Base, % | T5-Large, %
neuronal | 99.985 | 99.984
point | 0.016 | 0.015
""")
FIGURE_6 = table("""
model | best r | performance varies within, points
T5-Base | 0.15 | 2.5
T5-Large | 0.10 | 4.0
""")
TABLE_7 = table("""
method | validation | mean | paws | qasc | quartz | story_cloze | wiki_qa | winogrande | wsc
zero-shot | | 53.5 | 49.9 | 35.8 | 53.3 | 48.1 | 76.2 | 50.0 | 61.1
fine-tuned | | 79.6 | 93.9 | 98.0 | 81.4 | 82.5 | 95.4 | 51.9 | 54.2
averaging | no | 64.2 | 65.1 | 81.1 | 59.9 | 48.8 | 94.7 | 50.9 | 48.6
task arithmetic | no | 60.6 | 78.5 | 30.0 | 56.8 | 65.6 | 95.0 | 49.6 | 48.6
TIES-Merging | no | 73.6 | 82.4 | 94.1 | 71.9 | 66.0 | 91.2 | 51.5 | 58.3
PCB-Merging | no | 73.4 | 83.1 | 92.6 | 72.6 | 73.4 | 88.0 | 51.5 | 52.8
NeuroMerging | no | 74.8 | 81.8 | 96.5 | 69.3 | 67.9 | 94.8 | 51.0 | 62.5
task arithmetic | yes | 73.6 | 83.2 | 89.9 | 69.3 | 72.9 | 95.2 | 52.1 | 52.8
TIES-Merging | yes | 76.4 | 88.6 | 94.1 | 74.5 | 75.6 | 92.1 | 53.2 | 56.9
NeuroMerging | yes | 77.5 | 87.5 | 95.7 | 68.2 | 76.8 | 94.5 | 51.8 | 68.1
""")
TABLE_8 = table("""
method | validation | mean | SUN397 | Cars | RESISC45 | EuroSAT | SVHN | GTSRB | MNIST | DTD
individual | | 90.5 | 75.3 | 77.7 | 96.1 | 99.7 | 97.5 | 98.7 | 99.7 | 79.4
averaging | no | 65.8 | 65.3 | 63.4 | 71.4 | 71.7 | 64.2 | 52.8 | 87.5 | 50.1
task arithmetic | no | 60.4 | 36.7 | 41.0 | 53.8 | 64.4 | 80.6 | 66.0 | 98.1 | 42.5
TIES-Merging | no | 72.4 | 59.8 | 58.6 | 70.7 | 79.7 | 86.2 | 72.1 | 98.3 | 54.2
PCB-Merging | no | 75.9 | 65.8 | 64.4 | 78.1 | 81.1 | 84.9 | 77.1 | 98.0 | 58.4
NeuroMerging | no | 76.4 | 64.7 | 64.2 | 71.0 | 83.9 | 86.2 | 78.0 | 98.5 | 58.7
""")
TABLE_9 = table("""
method | validation | mean | SUN397 | Cars | RESISC45 | EuroSAT | SVHN | GTSRB | MNIST | DTD
individual | | 94.2 | 82.3 | 92.4 | 97.4 | 100 | 98.1 | 99.2 | 99.7 | 84.1
averaging | no | 79.6 | 72.1 | 81.6 | 82.6 | 91.9 | 78.2 | 70.7 | 97.1 | 62.8
task arithmetic | no | 83.3 | 72.5 | 79.2 | 84.5 | 90.6 | 89.2 | 86.5 | 99.1 | 64.3
TIES-Merging | no | 86.0 | 76.5 | 85.0 | 89.3 | 95.7 | 90.3 | 83.3 | 99.0 | 68.8
PCB-Merging | no | 86.9 | 75.8 | 86.0 | 89.2 | 96.0 | 88.0 | 90.9 | 99.1 | 70.0
NeuroMerging | no | 87.9 | 77.0 | 86.9 | 90.3 | 96.3 | 89.9 | 92.1 | 99.2 | 71.8
""")
TABLE_10 = table("""
method | mean | cosmos_qa | social_iqa | quail | wic | copa | h-swag
pretrained | 36.8 | 22.9 | 36.4 | 29.9 | 50.8 | 55.9 | 24.8
averaging | 37.4 | 23.7 | 36.8 | 29.3 | 51.3 | 58.8 | 24.8
task arithmetic | 36.9 | 19.0 | 35.6 | 29.5 | 54.0 | 55.9 | 27.7
PCB-Merging | 38.5 | 22.8 | 37.5 | 29.1 | 51.3 | 63.2 | 27.0
NeuroMerging | 39.2 | 21.2 | 37.3 | 29.9 | 52.0 | 69.1 | 25.4
""")
TABLE_11 = table("""
method | mean | cosmos_qa | social_iqa | quail | wic | copa | h-swag
pretrained | 36.3 | 23.7 | 37.8 | 28.1 | 51.2 | 51.5 | 25.5
averaging | 36.7 | 25.3 | 37.0 | 23.4 | 51.5 | 57.4 | 25.9
task arithmetic | 39.2 | 24.6 | 38.0 | 27.3 | 58.6 | 58.8 | 28.1
NeuroMerging | 40.9 | 24.7 | 40.7 | 26.6 | 56.4 | 69.1 | 27.9
""")
TABLE_12 = table("""
kept | tuned on | paws | qasc | quartz | story_cloze | wiki_qa | winogrande | wsc
all | paws | 94.4 | 18.0 | 53.3 | 53.1 | 87.9 | 49.8 | 54.2
all | qasc | 54.3 | 97.1 | 55.7 | 64.7 | 66.3 | 49.8 | 41.7
all | quartz | 59.9 | 65.1 | 85.3 | 51.2 | 72.5 | 48.9 | 62.5
all | story_cloze | 53.4 | 31.9 | 54.2 | 91.0 | 57.4 | 49.1 | 56.9
all | wiki_qa | 55.8 | 16.3 | 50.9 | 53.7 | 95.7 | 48.7 | 63.9
all | winogrande | 55.7 | 50.2 | 62.4 | 55.3 | 78.4 | 71.6 | 56.9
all | wsc | 55.8 | 16.3 | 57.7 | 48.5 | 73.3 | 47.4 | 80.6
orthogonal | paws | 94.4 | 18.1 | 53.3 | 53.3 | 88.1 | 49.6 | 56.9
orthogonal | qasc | 54.4 | 97.1 | 55.6 | 64.8 | 66.3 | 50.0 | 43.1
orthogonal | quartz | 60.0 | 65.0 | 85.3 | 51.5 | 72.5 | 48.5 | 63.9
orthogonal | story_cloze | 53.3 | 31.8 | 53.8 | 90.9 | 57.7 | 49.0 | 56.9
orthogonal | wiki_qa | 55.8 | 16.3 | 51.1 | 53.5 | 95.7 | 48.2 | 63.9
orthogonal | winogrande | 55.7 | 49.8 | 62.2 | 55.8 | 78.4 | 71.7 | 56.9
orthogonal | wsc | 55.8 | 16.6 | 57.4 | 48.2 | 73.4 | 47.4 | 80.6
parallel | paws | 54.4 | 14.5 | 53.4 | 54.2 | 71.8 | 49.5 | 63.9
parallel | qasc | 55.3 | 14.9 | 54.0 | 54.3 | 71.0 | 48.6 | 63.9
parallel | quartz | 55.3 | 14.3 | 55.6 | 54.2 | 71.7 | 49.4 | 63.9
parallel | story_cloze | 55.3 | 14.3 | 54.1 | 53.8 | 71.1 | 49.3 | 63.9
parallel | wiki_qa | 55.6 | 14.7 | 54.5 | 54.3 | 77.1 | 49.1 | 63.9
parallel | winogrande | 55.3 | 14.8 | 54.2 | 53.6 | 71.8 | 49.5 | 63.9
parallel | wsc | 55.3 | 14.7 | 53.7 | 53.7 | 72.5 | 49.5 | 63.9
""")
