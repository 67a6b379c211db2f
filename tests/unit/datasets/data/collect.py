"""Write the data sets beside this file anew, with Minari's own ``DataCollector``.

It needs ``pip install "minari[create]"``, and writes to ``$MINARI_DATASETS_PATH``.
"""

import gymnasium
from minari import DataCollector

for id, storage, episodes in (("CartPole-v1", "hdf5", 2), ("Pendulum-v1", "arrow", 1)):
    limit = {"max_episode_steps": 30} if id.startswith("Pendulum") else {}
    env = DataCollector(gymnasium.make(id, **limit), record_infos=False, data_format=storage)
    env.action_space.seed(3)
    for seed in range(episodes):
        env.reset(seed=seed)
        ended = False
        while not ended:
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            ended = terminated or truncated
    env.create_dataset(
        dataset_id=f"{id.partition('-')[0].lower()}-{storage}-v0",
        algorithm_name="random",
        author="nobody",
        author_email="nobody@example.org",
        code_permalink="https://example.org",
    )
